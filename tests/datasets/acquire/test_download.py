from __future__ import annotations

import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from tests.datasets.acquire.sets import (
    MARKER,
    WORK,
    failure,
    get,
    source_of,
    write_modelnet,
    zip_of,
    zipped,
)
from tests.datasets.acquire.site import Server, serving


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.datasets.acquire.download.BLOCK", 1000)


def part_of(root: Path) -> Path:
    (part,) = (root / WORK).glob("*.part")
    return part


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# Mirrors that fail; the next one is tried


def test_every_kind_of_bad_mirror_is_told_and_passed_over(
    server: Server, root: Path, tmp_path: Path, archive: bytes
) -> None:
    damaged = bytearray(archive)
    damaged[len(archive) // 2 : len(archive) // 2 + 50] = bytes(50)
    other = write_modelnet(tmp_path / "other" / HDF5_FOLDER, classes=4)
    cut = {"cut": 1000, "always": True}
    mirrors = {
        server.add("gone.zip", b"", status=404): "404 Not Found",
        server.add("broken.zip", b"", status=500): "500 Internal Server Error",
        server.add("page.zip", b"<!DOCTYPE html><p>log in"): r"^    not a whole zip or tar .*<!DOCTYPE html",
        server.add("empty.zip", b""): "empty",
        server.add("cut.zip", archive[:-200]): "not a whole zip",
        server.add("damaged.zip", bytes(damaged)): "not a whole zip",
        server.add("truncated.zip", archive, **cut): "it broke: .*0 bytes read",
        server.add("anew.zip", archive, ranges=False, **cut): "it broke: .*1000 bytes read",
        server.add("stalled.zip", archive, stall=0): "timed out",
        server.add("silent.zip", archive, stall=2000, always=True): "timed out",
        server.add("letter.zip", zip_of(("letter.txt", b"hello"))): f"{MARKER}, got .*letter.txt",
        server.add("other.zip", zipped(other)): "not modelnet40: expected 3 classes, got 4",
        server.add("huge.zip", bytes(200_000)): "over 1 MB, several times the data set",
        server.add("endless.zip", bytes(200_000), length=False): "over 1 MB, several times",
        f"http://127.0.0.1:{closed_port()}/a.zip": "no connection.*: Connection refused",
        "http://nowhere.invalid/a.zip": "no connection",
    }
    start = time.monotonic()
    said = failure(root, source_of(*mirrors), timeout=0.2)
    assert time.monotonic() - start < 10
    assert server.files["/huge.zip"].seen == [(0, 200_000)]
    lines = said.splitlines()
    for url, reason in mirrors.items():
        assert re.search(reason, lines[lines.index(f"  {url}") + 1]), (url, said)
    assert [line.strip() for line in lines if line.startswith("  http")] == list(mirrors)
    assert lines[-1].startswith("  bixt3d data get modelnet40 --root ")
    assert lines[-1].endswith(" --from-file ARCHIVE") and str(root) in lines[-1]

    report = get(root, source_of(*mirrors, server.add("good.zip", archive)), timeout=0.2)
    assert report.warnings == [] and (root / HDF5_FOLDER).is_dir()
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]


def test_wrong_checksum(server: Server, root: Path, archive: bytes) -> None:
    good = hashlib.sha256(archive).hexdigest()
    wrong = (server.add("a.zip", archive), "sha256:" + "0" * 64)
    said = failure(root, source_of(wrong))
    assert f"expected sha256:{'0' * 64} but got {good}" in said
    assert list(root.iterdir()) == []
    get(root, source_of(wrong, (server.add("b.zip", archive), f"sha256:{good}")))


def test_all_is_said_once_and_places_by_hand_too(server: Server, root: Path) -> None:
    said = failure(
        root, source_of(server.add("a.zip", b"", status=403), by_hand=("https://drive.example/x",))
    )
    assert said.count("it answered 403 Forbidden") == 1 and "https://drive.example/x\n" in said
    assert list(root.iterdir()) == []  # nothing came, so nothing is left


@pytest.mark.parametrize("url", ["ftp://a/b.zip", "b.zip", "file:///b.zip", ""])
def test_mirror_is_a_web_address(root: Path, url: str) -> None:
    with pytest.raises(ValueError, match="mirror: expected an address with http"):
        get(root, source_of(), mirrors=[url])


# Certificates


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """The file of a certificate for localhost that nobody else signed, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to make a certificate")
    path = tmp_path / "cert.pem"
    about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    places = ["-keyout", str(tmp_path / "key.pem"), "-out", str(path)]
    subprocess.run(["openssl", "req", "-x509", *kind, *places, *about], check=True, capture_output=True)
    return path


def with_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


def test_certificate_of_a_stranger_is_not_accepted(root: Path, certificate: Path, archive: bytes) -> None:
    with serving(with_tls(certificate)) as server:
        server.add("a.zip", archive)
        said = failure(root, source_of(f"https://localhost:{server.server_port}/a.zip"))
        assert "certificate verify failed" in said and "self-signed" in said
        assert server.files["/a.zip"].seen == []


def test_redirection_away_from_tls_is_not_followed_to_its_end(
    server: Server, root: Path, certificate: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    open_url = server.add("a.zip", archive)
    with serving(with_tls(certificate)) as secure:
        secure.add("whole.zip", archive)
        secure.add("away.zip", b"", location=open_url)
        base = f"https://localhost:{secure.server_port}"
        assert f"redirects to {open_url}" in failure(root, source_of(f"{base}/away.zip"))
        secure.add("there.zip", b"", location=f"{base}/whole.zip")
        get(root, source_of(f"{base}/there.zip"))


# Downloads that are cut off


def test_the_next_run_fetches_the_rest_only(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, cut=3000, always=True)
    said = failure(root, source_of(url))
    assert "1 MB are kept: the same command continues from there" in said
    assert part_of(root).read_bytes() == archive[:3000] and part_of(root).name.endswith("a.zip.part")
    server.files["/a.zip"].cut = None
    get(root, source_of(url))
    assert server.files["/a.zip"].seen == [(0, 3000), (3000, 0), (3000, len(archive) - 3000)]
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_the_same_run_continues_as_long_as_more_comes(
    server: Server, root: Path, archive: bytes, how: str
) -> None:
    get(root, source_of(server.add("a.zip", archive, **{how: 3000})), timeout=0.2)
    assert server.files["/a.zip"].seen == [(0, 3000), (3000, len(archive) - 3000)]


def test_server_without_ranges_starts_anew(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, cut=3000, ranges=False)
    get(root, source_of(url))
    assert server.files["/a.zip"].seen == [(0, 3000), (0, len(archive))]


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("now", ['"2"', None])
@pytest.mark.parametrize("longer", [-10, 9000])
def test_a_file_that_changed_is_fetched_anew(
    server: Server, root: Path, archive: bytes, now: str | None, longer: int, heeds_if_range: bool
) -> None:
    first = archive + bytes(longer) if longer > 0 else archive[:longer]
    cut = len(archive) // 1000 * 1000 + (2000 if longer > 0 else -1000)
    url = server.add("a.zip", first, cut=cut, always=True)
    failure(root, source_of(url))
    assert part_of(root).stat().st_size == cut
    server.add("a.zip", archive, etag=now, heeds_if_range=heeds_if_range)
    get(root, source_of(url))
    assert server.files["/a.zip"].seen[-1] == (0, len(archive))


def test_a_file_without_a_version_is_fetched_anew(server: Server, root: Path, archive: bytes) -> None:
    get(root, source_of(server.add("a.zip", archive, cut=3000, etag=None, heeds_if_range=False)))
    assert server.files["/a.zip"].seen == [(0, 3000), (0, len(archive))]


def test_parts_of_two_addresses_do_not_meet(server: Server, root: Path, archive: bytes) -> None:
    first = server.add("one/a.zip", archive, cut=1000, always=True)
    second = server.add("two/a.zip", bytes(5000), cut=2000, always=True)
    failure(root, source_of(first, second))
    assert server.files["/two/a.zip"].seen == [(0, 2000), (2000, 0)]
    server.files["/one/a.zip"].cut = None
    get(root, source_of(first, second))
    assert server.files["/one/a.zip"].seen[-1] == (1000, len(archive) - 1000)


@pytest.mark.parametrize("note", ["", "{", '"2"', None])
def test_a_part_of_unknown_version_is_fetched_anew(
    server: Server, root: Path, archive: bytes, note: str | None
) -> None:
    url = server.add("a.zip", archive, cut=2000, always=True, heeds_if_range=False)
    failure(root, source_of(url))
    version = part_of(root).with_suffix(".version")
    version.unlink() if note is None else version.write_text(note)
    server.files["/a.zip"].cut = None
    get(root, source_of(url))
    assert server.files["/a.zip"].seen[-1] == (0, len(archive))


def test_a_part_that_is_the_whole_is_no_dead_end(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, cut=3000, always=True)
    failure(root, source_of(url))
    part_of(root).write_bytes(archive)
    server.files["/a.zip"].cut = None
    get(root, source_of(url))


def test_wrong_bytes_in_the_part_are_found_and_do_not_come_again(
    server: Server, root: Path, archive: bytes
) -> None:
    mirror = (
        server.add("a.zip", archive, cut=3000, always=True),
        f"md5:{hashlib.md5(archive).hexdigest()}",
    )
    failure(root, source_of(mirror))
    part_of(root).write_bytes(bytes(3000))
    server.files["/a.zip"].cut = None
    assert "does not match" in failure(root, source_of(mirror))
    get(root, source_of(mirror))
    assert server.files["/a.zip"].seen[-1] == (0, len(archive))
