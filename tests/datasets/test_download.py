from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bixt3d.datasets import archives, open_dataset
from bixt3d.datasets.archives import find_data, unpack
from bixt3d.datasets.download import prepare
from bixt3d.datasets.modelnet40 import HDF5_FOLDER, NORMAL_FOLDER
from bixt3d.datasets.shapenetpart import FOLDER as PART_FOLDER
from bixt3d.datasets.sources import SOURCES, Mirror, Report, Source, verify
from tests.datasets.parts import write_parts

MARKER = "shape_names.txt"
WORK = f".{HDF5_FOLDER}.download"

# A local server


@dataclass
class Served:
    """One file of the server, and how the server misbehaves with it."""

    body: bytes
    ranges: bool = True
    kind: str = "application/zip"
    status: int = 200
    etag: str | None = '"1"'
    length: bool = True
    cut: int | None = None  # ends the connection after so many bytes of its first answer
    cut_always: bool = False
    stall: int | None = None  # goes silent after so many bytes
    seen: list[tuple[int, int]] = field(default_factory=list)  # first byte and number of bytes of each answer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.ended = threading.Event()

    def add(self, name: str, body: bytes, **how: Any) -> str:
        self.files[f"/{name}"] = Served(body, **how)
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave early are part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        file = self.server.files.get(self.path)
        if file is None or file.status >= 400:
            self.send_error(404 if file is None else file.status)
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and file.ranges:
            start = int(asked[1])
            if start >= len(file.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(file.body)}")
                self.end_headers()
                return
        body = file.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", file.kind)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(file.body) - 1}/{len(file.body)}")
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        end = len(body)
        if file.cut is not None and (file.cut_always or not file.seen):
            end = file.cut
        if file.stall is not None:
            end = file.stall
        self.wfile.write(body[:end])
        file.seen.append((start, min(end, len(body))))
        if file.stall is not None:
            self.wfile.flush()
            self.server.ended.wait(30)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


# Small data sets and their archives


def write_modelnet(
    folder: Path, *, train: int = 9, test: int = 4, points: int = 16, classes: int = 3
) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    (folder / MARKER).write_text("".join(f"class_{i}\n" for i in range(classes)))
    for part, count in (("train", train), ("test", test)):
        (folder / f"{part}_files.txt").write_text(f"data/{folder.name}/ply_data_{part}0.h5\n")
        with h5py.File(folder / f"ply_data_{part}0.h5", "w") as file:
            file["data"] = draw.normal(size=(count, points, 3)).astype(np.float32)
            file["label"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return folder


def write_normal(folder: Path, *, lines: int = 20) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    classes = ["chair", "night_stand"]
    (folder / "modelnet40_shape_names.txt").write_text("".join(f"{name}\n" for name in classes))
    for part, numbers in (("train", range(1, 4)), ("test", range(4, 6))):
        names = [f"{name}_{number:04d}" for name in classes for number in numbers]
        (folder / f"modelnet40_{part}.txt").write_text("\n".join(names))
        for name in names:
            path = folder / name.rpartition("_")[0] / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, draw.uniform(-1, 1, (lines, 6)), fmt="%.5f", delimiter=",")
    return folder


def zipped(folder: Path, inside: str | None = None) -> bytes:
    """Packs a folder under a name, which may be a path; "" is the top level of the archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(folder.name if inside is None else inside, path.relative_to(folder)))
    return packed.getvalue()


def tarred(folder: Path, mode: str, inside: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{mode}") as archive:
        archive.add(folder, inside)
    return packed.getvalue()


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two members of one name
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def tar_of(*members: tuple[str, bytes], mode: str = "", **fields: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{mode}") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in fields.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_modelnet(tmp_path / "made" / HDF5_FOLDER)


@pytest.fixture
def archive(whole: Path) -> bytes:
    return zipped(whole)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def source_of(*mirrors: str | Mirror, **changes: Any) -> Source:
    """The made data set as a published one."""
    source = Source(
        "modelnet40",
        HDF5_FOLDER,
        MARKER,
        tuple(mirror if isinstance(mirror, Mirror) else Mirror(mirror) for mirror in mirrors),
        archive_bytes=30_000,
        unpacked_bytes=30_000,
        shapes={"train": (9,), "test": (4,)},
        classes=3,
        points=16,
    )
    return replace(source, **changes)


def get(root: Path, source: Source, **options: Any) -> Report:
    return prepare(source, root, **{"timeout": 5.0, "retries": 0, **options})


def failure(root: Path, source: Source, **options: Any) -> str:
    """What is said when no mirror gave the data set."""
    with pytest.raises(RuntimeError, match="could not be downloaded") as caught:
        get(root, source, **options)
    assert not (root / source.folder).exists()
    return str(caught.value)


def same_files(one: Path, other: Path) -> bool:
    def contents(folder: Path) -> dict[str, bytes]:
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return {
            name: path.read_bytes() for name, path in found.items() if not name.startswith(".bixt3d_cache")
        }

    return contents(one) == contents(other)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# Downloads that go well


def test_download_unpack_check_and_place(server: Server, root: Path, whole: Path, archive: bytes) -> None:
    checksum = f"md5:{hashlib.md5(archive).hexdigest()}"
    report = get(root, source_of(Mirror(server.add("a.zip", archive), checksum)))
    assert report.folder == root / HDF5_FOLDER and report.warnings == []
    assert same_files(root / HDF5_FOLDER, whole)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]
    assert "whole" in str(report) and "9 shapes, 16 points, xyz, labels 0 to 2" in str(report)
    assert len(open_dataset("modelnet40", root, "trainval")) == 9


def test_data_that_is_there_is_left_alone(
    server: Server, root: Path, archive: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.add("a.zip", archive)
    get(root, source_of(url))
    stamp = (root / HDF5_FOLDER / MARKER).stat().st_mtime_ns
    caplog.set_level(logging.INFO)
    report = get(root, source_of(url))
    assert len(server.files["/a.zip"].seen) == 1
    assert (root / HDF5_FOLDER / MARKER).stat().st_mtime_ns == stamp
    assert "it is there already" in caplog.text and len(report.facts) == 3


def test_root_may_be_the_data_sets_own_folder(server: Server, root: Path, archive: bytes) -> None:
    get(root / HDF5_FOLDER, source_of(server.add("a.zip", archive)))
    assert (root / HDF5_FOLDER / MARKER).is_file()
    assert verify(source_of(), root / HDF5_FOLDER).warnings == []


def test_a_mirror_given_is_tried_first(server: Server, root: Path, archive: bytes) -> None:
    wrong = Mirror(server.add("a.zip", archive), "md5:" + "0" * 32)
    get(root, source_of(wrong), mirrors=[server.add("mine.zip", archive)])
    assert len(server.files["/mine.zip"].seen) == 1 and server.files["/a.zip"].seen == []


# Mirrors that fail; the next one is tried


def test_every_kind_of_bad_mirror_is_told_and_passed_over(
    server: Server, root: Path, tmp_path: Path, archive: bytes
) -> None:
    damaged = bytearray(archive)
    damaged[len(archive) // 2 : len(archive) // 2 + 50] = bytes(50)
    other = write_modelnet(tmp_path / "other" / HDF5_FOLDER, classes=4)
    mirrors = {
        server.add("gone.zip", b"", status=404): "404 Not Found",
        server.add("broken.zip", b"", status=500): "500 Internal Server Error",
        server.add("page.zip", b"<html>log in</html>", kind="text/html; charset=utf-8"): "a web page",
        server.add("disguised.zip", b"<!DOCTYPE html><p>hello"): r"not a whole zip or tar .*<!DOCTYPE html",
        server.add("empty.zip", b""): "it is empty",
        server.add("cut.zip", archive[:-200]): "cut off or damaged",
        server.add("damaged.zip", bytes(damaged)): "damaged or cut off",
        server.add("truncated.zip", archive, cut=1000, cut_always=True): "connection broke.*1000 bytes",
        server.add("stalled.zip", archive, stall=0): "no answer, or none any more, for 0.5 s",
        server.add("silent.zip", archive, stall=2000): "no answer, or none any more, for 0.5 s",
        server.add("letter.zip", zip_of(("letter.txt", b"hello"))): f"no {MARKER} in it.*letter.txt",
        server.add("other.zip", zipped(other)): "not modelnet40: expected 3 classes, came 4",
        server.add("huge.zip", bytes(200_000)): "several times the data set's archive",
        server.add("endless.zip", bytes(200_000), length=False): "several times the data set's archive",
        f"http://127.0.0.1:{closed_port()}/a.zip": "no connection: Connection refused",
        "http://nowhere.invalid/a.zip": "no connection: ",
    }
    start = time.monotonic()
    said = failure(root, source_of(*mirrors), timeout=0.5)
    assert time.monotonic() - start < 10
    lines = said.splitlines()
    for url, reason in mirrors.items():
        assert re.search(reason, lines[lines.index(f"  {url}") + 1]), (url, said)
    assert [line.strip() for line in lines if line.startswith("  http")] == list(mirrors)
    assert lines[-1].startswith("  python tools/prepare_data.py modelnet40 --root ")
    assert lines[-1].endswith(" --from-file ARCHIVE") and str(root) in lines[-1]

    report = get(root, source_of(*mirrors, server.add("good.zip", archive)), timeout=0.5)
    assert report.warnings == [] and (root / HDF5_FOLDER).is_dir()


def test_wrong_checksum(server: Server, root: Path, archive: bytes) -> None:
    good = hashlib.sha256(archive).hexdigest()
    wrong = Mirror(server.add("a.zip", archive), "sha256:" + "0" * 64)
    said = failure(root, source_of(wrong))
    assert f"expected sha256:{'0' * 64} but got {good}" in said
    assert list(root.iterdir()) == []
    get(root, source_of(wrong, Mirror(server.add("b.zip", archive), f"sha256:{good}")))


def test_busy_server_is_asked_again(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, status=503)
    threading.Timer(0.3, lambda: setattr(server.files["/a.zip"], "status", 200)).start()
    get(root, source_of(url), retries=1)


def test_certificate_of_a_stranger_is_not_accepted(root: Path, tmp_path: Path, archive: bytes) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to make a certificate")
    names = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    subprocess.run(["openssl", "req", "-x509", *names, *about], check=True, capture_output=True)
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.add("a.zip", archive)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        said = failure(root, source_of(f"https://localhost:{server.server_port}/a.zip"))
        assert "its certificate was not accepted" in said and "self-signed" in said
        assert server.files["/a.zip"].seen == []
    finally:
        server.shutdown()
        server.server_close()


def test_all_is_said_once_and_places_by_hand_too(server: Server, root: Path) -> None:
    said = failure(
        root, source_of(server.add("a.zip", b"", status=403), by_hand=("https://drive.example/x",))
    )
    assert "it answered 403 Forbidden" in said and "  https://drive.example/x\nthen\n" in said
    assert list(root.iterdir()) == []  # nothing came, so nothing is left


@pytest.mark.parametrize("url", ["ftp://a/b.zip", "b.zip", "file:///b.zip", "https://", ""])
def test_mirror_is_a_web_address(root: Path, url: str) -> None:
    with pytest.raises(ValueError, match="mirror: expected an address with http"):
        get(root, source_of(), mirrors=[url])


# Downloads that are cut off


def part_of(root: Path) -> Path:
    (part,) = (root / WORK).glob("*/*.part")
    return part


def test_the_next_run_fetches_the_rest_only(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, cut=3000)
    said = failure(root, source_of(url))
    assert "1 MB came and are kept: the same command goes on from there" in said
    assert part_of(root).read_bytes() == archive[:3000] and part_of(root).name == "a.zip.part"
    get(root, source_of(url))
    assert server.files["/a.zip"].seen == [(0, 3000), (3000, len(archive) - 3000)]
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]


def test_the_same_run_goes_on_too(server: Server, root: Path, archive: bytes) -> None:
    get(root, source_of(server.add("a.zip", archive, cut=3000)), retries=1)
    assert server.files["/a.zip"].seen == [(0, 3000), (3000, len(archive) - 3000)]


def test_a_connection_that_breaks_before_anything_came_is_tried_again(
    server: Server, root: Path, archive: bytes
) -> None:
    get(root, source_of(server.add("a.zip", archive, cut=0)), retries=1)
    assert server.files["/a.zip"].seen == [(0, 0), (0, len(archive))]


def test_server_without_ranges_starts_anew(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, cut=3000, ranges=False)
    failure(root, source_of(url))
    get(root, source_of(url))
    assert server.files["/a.zip"].seen == [(0, 3000), (0, len(archive))]


@pytest.mark.parametrize("change", ["etag", "longer", "shorter"])
def test_a_file_that_changed_is_fetched_anew(
    server: Server, root: Path, tmp_path: Path, archive: bytes, change: str
) -> None:
    first = {"etag": archive, "longer": archive[:-10], "shorter": archive + bytes(9000)}[change]
    cut = {"etag": 3000, "longer": 3000, "shorter": len(archive) + 4000}[change]
    url = server.add("a.zip", first, cut=cut)
    failure(root, source_of(url))
    assert part_of(root).stat().st_size == cut
    server.add("a.zip", archive, etag='"2"' if change == "etag" else None)
    get(root, source_of(url))
    assert server.files["/a.zip"].seen[-1] == (0, len(archive))


def test_parts_of_two_addresses_do_not_meet(server: Server, root: Path, archive: bytes) -> None:
    first = server.add("one/a.zip", archive, cut=1000)
    second = server.add("two/a.zip", bytes(5000), cut=2000)
    failure(root, source_of(first, second))
    assert server.files["/two/a.zip"].seen == [(0, 2000)]
    get(root, source_of(first, second))
    assert server.files["/one/a.zip"].seen[-1] == (1000, len(archive) - 1000)


@pytest.mark.parametrize("note", ["{", "[]", "{}", '{"url": "http://x/", "total": SIZE}'])
def test_a_part_whose_note_does_not_fit_is_fetched_anew(
    server: Server, root: Path, archive: bytes, note: str
) -> None:
    url = server.add("a.zip", archive, cut=2000)
    failure(root, source_of(url))
    part_of(root).with_name("a.zip.part.json").write_text(note.replace("SIZE", str(len(archive))))
    get(root, source_of(url))
    assert server.files["/a.zip"].seen[-1] == (0, len(archive))


def test_a_whole_part_that_was_not_renamed_is_used(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, cut=3000)
    failure(root, source_of(url))
    part_of(root).write_bytes(archive)
    get(root, source_of(url))
    assert len(server.files["/a.zip"].seen) == 1


def test_wrong_bytes_in_the_part_are_found_and_do_not_come_again(
    server: Server, root: Path, archive: bytes
) -> None:
    mirror = Mirror(server.add("a.zip", archive, cut=3000), f"md5:{hashlib.md5(archive).hexdigest()}")
    failure(root, source_of(mirror))
    part_of(root).write_bytes(bytes(3000))
    assert "does not match" in failure(root, source_of(mirror))
    get(root, source_of(mirror))
    assert server.files["/a.zip"].seen[-1] == (0, len(archive))


def test_server_that_stalls_midway_is_gone_on_with(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive, stall=3000)
    threading.Timer(0.6, lambda: setattr(server.files["/a.zip"], "stall", None)).start()
    get(root, source_of(url), timeout=0.4, retries=1)
    (_, _), (start, count) = server.files["/a.zip"].seen
    assert start + count == len(archive)


def test_an_archive_that_is_here_is_not_fetched_again(
    server: Server, root: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(server.add("gone.zip", b"", status=404), server.add("a.zip", archive))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupt_after(2))
        get(root, source)
    server.add("gone.zip", archive)
    get(root, source)
    assert len(server.files["/a.zip"].seen) == 1 and server.files["/gone.zip"].seen == []


# The disk


def free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_space_is_asked_for_before_the_download(
    server: Server, root: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(server.add("a.zip", archive), archive_bytes=435_200_000, unpacked_bytes=710_000_000)
    free_bytes(monkeypatch, 1_000_000_000)
    with pytest.raises(OSError, match=r"needs 1,146 MB, .* 1,000 MB free: free 146 MB more, or .*--root"):
        get(root, source)
    assert server.files["/a.zip"].seen == [] and list(root.iterdir()) == []


def test_space_is_asked_for_before_unpacking(
    root: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(unpacked_bytes=10_000_000)
    big = tmp_path / "big.zip"
    big.write_bytes(zip_of((MARKER, b"chair"), ("zeros", bytes(9_000_000))))
    free_bytes(monkeypatch, 4_500_000)
    with pytest.raises(OSError, match=r"unpacking big\.zip needs 10 MB, .* 5 MB free: free 5 MB more"):
        get(root, source, from_file=big)
    assert list(root.iterdir()) == []
    free_bytes(monkeypatch, 10)
    with pytest.raises(OSError, match=r"copying .* needs 1 MB"):
        get(root, source, from_file=whole)


def test_disk_that_fills_up_midway(
    server: Server, root: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = source_of(server.add("a.zip", archive), server.add("b.zip", archive))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk of .* is full: free some"):
        patch.setattr(shutil, "copyfileobj", full)
        get(root, source)
    assert server.files["/b.zip"].seen == []  # another mirror would not help
    assert [path.name for path in root.iterdir()] == [WORK]
    get(root, source)
    assert len(server.files["/a.zip"].seen) == 1


# Archives that are refused


def hostile(kind: str, outside: Path) -> bytes:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    encrypted = bytearray(zip_of(("secret.txt", b"x")))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    made = {
        "zip slip": lambda: zip_of(("../../escaped.txt", b"x")),
        "zip slip, deep": lambda: zip_of(("a/b/../../../escaped.txt", b"x")),
        "zip slip, windows": lambda: zip_of(("..\\..\\escaped.txt", b"x")),
        "zip, absolute": lambda: zip_of((str(outside / "escaped.txt"), b"x")),
        "zip, drive": lambda: zip_of(("C:\\escaped.txt", b"x")),
        "zip, link": lambda: zip_of((link, b"/etc/passwd")),
        "zip, encrypted": lambda: bytes(encrypted),
        "zip, twice": lambda: zip_of(("a.txt", b"x"), ("./a.txt", b"y")),
        "zip, file as folder": lambda: zip_of(("a", b"x"), ("a/b", b"y")),
        "zip, bomb": lambda: zip_of(("zeros", bytes(2_000_000))),
        "tar slip": lambda: tar_of(("../escaped.txt", b"x")),
        "tar, absolute": lambda: tar_of((str(outside / "escaped.txt"), b"x")),
        "tar, link": lambda: tar_of(("a", b""), type=tarfile.SYMTYPE, linkname="/etc"),
        "tar, hard link": lambda: tar_of(("a", b""), type=tarfile.LNKTYPE, linkname="../escaped.txt"),
        "tar, device": lambda: tar_of(("a", b""), type=tarfile.CHRTYPE),
        "tar, pipe": lambda: tar_of(("a", b""), type=tarfile.FIFOTYPE),
        "tar, bomb": lambda: tar_of(("zeros", bytes(2_000_000)), mode="xz"),
        "tar, many small": lambda: tar_of(*((f"{i}", bytes(30_000)) for i in range(9)), mode="gz"),
        "tar, bomb at its end": lambda: gzipped(tar_of(("a", b"x")) + bytes(3_000_000)),
    }
    return made[kind]()


def gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("zip slip", "outside its folder"),
        ("zip slip, deep", "outside its folder"),
        ("zip slip, windows", "outside its folder"),
        ("zip, absolute", "outside its folder"),
        ("zip, drive", "outside its folder"),
        ("zip, link", "is a link or a device"),
        ("zip, encrypted", "is encrypted"),
        ("zip, twice", "a.txt twice"),
        ("zip, file as folder", "a/b twice"),
        ("zip, bomb", "would be over 1 MB or"),
        ("tar slip", "outside its folder"),
        ("tar, absolute", "outside its folder"),
        ("tar, link", "is a link or a device"),
        ("tar, hard link", "is a link or a device"),
        ("tar, device", "is a link or a device"),
        ("tar, pipe", "is a link or a device"),
        ("tar, bomb", "would be over 1 MB or"),
        ("tar, many small", "would be over 1 MB or"),
        ("tar, bomb at its end", "would be over 1 MB or"),
    ],
)
def test_hostile_archive_is_refused(root: Path, tmp_path: Path, kind: str, reason: str) -> None:
    given = tmp_path / "evil.bin"
    given.write_bytes(hostile(kind, tmp_path))
    before = {path for path in tmp_path.rglob("*") if path != root}
    with pytest.raises(ValueError, match=rf"evil\.bin: refused: .*{reason}"):
        get(root, source_of(), from_file=given)
    assert {path for path in tmp_path.rglob("*") if path != root} == before
    assert list(root.iterdir()) == []


def test_a_hostile_member_keeps_all_others_from_being_written(tmp_path: Path) -> None:
    given, into = tmp_path / "a.zip", tmp_path / "into"
    given.write_bytes(zip_of(("good.txt", b"x"), ("../bad.txt", b"y")))
    into.mkdir()
    with pytest.raises(ValueError, match="refused"):
        unpack(given, into, 1000)
    assert list(into.iterdir()) == []


def test_a_huge_member_of_a_tar_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("zeros")
    entry.size = 10**15
    (tmp_path / "a.tar").write_bytes(entry.tobuf() + bytes(10240))
    with pytest.raises(ValueError, match="would be over 1 MB"):
        unpack(tmp_path / "a.tar", tmp_path, 1_000_000)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    (tmp_path / "a.zip").write_bytes(zip_of(*((f"{i}.txt", b"") for i in range(4))))
    with pytest.raises(ValueError, match="or 3 files"):
        unpack(tmp_path / "a.zip", tmp_path, 1000)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab./\\: "), min_size=1, max_size=8), min_size=1, max_size=3))
def test_no_name_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    base = tmp_path_factory.mktemp("names")
    into = base / "into"
    into.mkdir()
    for packed in (zip_of(*((name, b"x") for name in names)), tar_of(*((name, b"x") for name in names))):
        (base / "archive").write_bytes(packed)
        try:
            unpack(base / "archive", into, 1000)
        except ValueError:
            pass
        assert sorted(path.name for path in base.iterdir()) == ["archive", "into"]
        shutil.rmtree(into)
        into.mkdir()


# Layouts, and files that are here already


@pytest.mark.parametrize("inside", [HDF5_FOLDER, "", "a/b/data", "another_name"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_from_file(root: Path, tmp_path: Path, whole: Path, kind: str, inside: str) -> None:
    given = tmp_path / "download"  # its name does not matter
    mode = kind.removeprefix("tar").removeprefix(".")
    given.write_bytes(zipped(whole, inside) if kind == "zip" else tarred(whole, mode, inside))
    report = get(root, source_of(), from_file=given)
    assert report.warnings == [] and same_files(root / HDF5_FOLDER, whole)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER] and given.is_file()
    assert not os.access(root / HDF5_FOLDER / MARKER, os.X_OK)


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_damaged_tar(root: Path, tmp_path: Path, whole: Path, kind: str) -> None:
    packed = tarred(whole, kind, HDF5_FOLDER)
    given = tmp_path / "a.tar"
    for cut in (len(packed) // 2, len(packed) - 30 if kind else len(packed) // 3):
        given.write_bytes(packed[:cut])
        with pytest.raises(ValueError, match=r"a\.tar: (damaged|not a whole|.*is missing)"):
            get(root, source_of(), from_file=given)
    if kind:
        flipped = bytearray(packed)
        flipped[len(packed) // 2] ^= 1
        given.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"a\.tar: (damaged|not a whole)"):
            get(root, source_of(), from_file=given)
    assert list(root.iterdir()) == []


def test_from_folder(root: Path, whole: Path) -> None:
    open_dataset("modelnet40", whole, "test")  # leaves a cache, which is not copied
    (whole / ".bixt3d_cache" / "other.npz").touch()
    get(root, source_of(), from_file=whole.parent)
    assert same_files(root / HDF5_FOLDER, whole) and whole.is_dir()
    assert not (root / HDF5_FOLDER / ".bixt3d_cache" / "other.npz").exists()
    with pytest.raises(ValueError, match=rf"no {MARKER} in it, .* it holds modelnet40-test\.npz, other\.npz"):
        get(root / "x", source_of(), from_file=whole / ".bixt3d_cache")


def test_checksum_of_a_given_file_is_told(
    root: Path, tmp_path: Path, archive: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    given = tmp_path / "a.zip"
    given.write_bytes(archive)
    caplog.set_level(logging.INFO)
    known = Mirror("http://x.invalid/", f"md5:{hashlib.md5(archive).hexdigest()}")
    get(root / "1", source_of(known), from_file=given)
    assert "its checksum is that of a known archive" in caplog.text
    get(root / "2", source_of(Mirror("http://x.invalid/", "md5:0")), from_file=given)
    assert "its checksum is not known here, so only its content is checked" in caplog.text


def test_no_such_file(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*gone\.zip"):
        get(root, source_of(), from_file=tmp_path / "gone.zip")
    assert not root.exists()


def test_zip_with_backslashes(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(("data\\", b""), ("data\\sub\\a.txt", b"x")))
    unpack(tmp_path / "a.zip", tmp_path, 1000)
    assert (tmp_path / "data" / "sub" / "a.txt").read_bytes() == b"x"


def test_the_named_then_the_outermost_folder_is_the_data(tmp_path: Path) -> None:
    for name in ("z/deep", "b", "a/named"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / MARKER).touch()
    assert find_data(tmp_path, "named", MARKER) == tmp_path / "a/named"
    assert find_data(tmp_path, "other", MARKER) == tmp_path / "b"


# Kills, force, and two at once


def interrupt_after(files: int) -> Any:
    copy, count = shutil.copyfileobj, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count > files:
            raise KeyboardInterrupt
        copy(*arguments)

    return interrupted


def test_interrupted_unpacking_leaves_nothing(
    root: Path, tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "a.zip"
    given.write_bytes(archive)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupt_after(2))
        get(root, source_of(), from_file=given)
    assert list(root.iterdir()) == []


def test_what_a_kill_leaves_is_cleared(root: Path, tmp_path: Path, archive: bytes) -> None:
    given = tmp_path / "a.zip"
    given.write_bytes(archive)
    host = root / WORK / "127.0.0.1_80"
    host.mkdir(parents=True)
    (host / "tmpabc_defg").write_bytes(b"half")
    (root / WORK / "unpacked" / "half").mkdir(parents=True)
    get(root, source_of(), from_file=given)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]
    assert not (root / HDF5_FOLDER / "half").exists()


def test_a_kill_for_real_while_unpacking(root: Path, tmp_path: Path, archive: bytes, whole: Path) -> None:
    given = tmp_path / "a.zip"
    given.write_bytes(archive)
    program = f"""
import os, shutil, signal
from tests.datasets.test_download import interrupt_after, source_of
from bixt3d.datasets.download import prepare
copy, count = shutil.copyfileobj, []
def kill(*arguments):
    copy(*arguments)
    count.append(1)
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
shutil.copyfileobj = kill
prepare(source_of(), {str(root)!r}, from_file={str(given)!r})
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], timeout=120)
    assert ended.returncode == -9
    assert [path.name for path in root.iterdir()] == [WORK]
    get(root, source_of(), from_file=given)
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]
    assert same_files(root / HDF5_FOLDER, whole)


def test_a_kill_between_the_two_renames_is_mended(root: Path, whole: Path, tmp_path: Path) -> None:
    (root / WORK).mkdir(parents=True)
    shutil.copytree(whole, root / WORK / "old")
    get(root, source_of())  # no mirror and no file: the old data set is found and put back
    assert same_files(root / HDF5_FOLDER, whole) and [path.name for path in root.iterdir()] == [HDF5_FOLDER]


def test_force_replaces_only_by_what_was_checked(
    server: Server, root: Path, tmp_path: Path, archive: bytes
) -> None:
    get(root, source_of(server.add("a.zip", archive)))
    (root / HDF5_FOLDER / "notes.txt").write_text("mine")
    before = sorted(path.name for path in (root / HDF5_FOLDER).iterdir())
    bad = tmp_path / "bad.zip"
    bad.write_bytes(zip_of((f"x/{MARKER}", b"class_0\nclass_1\nclass_2\n")))
    with pytest.raises(ValueError, match=r"bad\.zip: x holds no ply_data_train\*\.h5"):
        get(root, source_of(), from_file=bad, force=True)
    with pytest.raises(RuntimeError, match="404"):
        get(root, source_of(server.add("b.zip", b"", status=404)), force=True)
    assert sorted(path.name for path in (root / HDF5_FOLDER).iterdir()) == before
    get(root, source_of(server.add("a.zip", archive)), force=True)
    assert not (root / HDF5_FOLDER / "notes.txt").exists()
    assert [path.name for path in root.iterdir()] == [HDF5_FOLDER]


def test_force_replaces_a_link_and_not_what_it_points_to(
    root: Path, tmp_path: Path, whole: Path, archive: bytes
) -> None:
    root.mkdir()
    (root / HDF5_FOLDER).symlink_to(whole)
    (tmp_path / "a.zip").write_bytes(archive)
    get(root, source_of(), from_file=tmp_path / "a.zip", force=True)
    assert not (root / HDF5_FOLDER).is_symlink() and same_files(root / HDF5_FOLDER, whole)


def test_damaged_data_is_not_replaced_without_force(server: Server, root: Path, archive: bytes) -> None:
    url = server.add("a.zip", archive)
    get(root, source_of(url))
    (root / HDF5_FOLDER / "ply_data_test0.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match="is there but not usable; --force replaces it.*not a whole HDF5"):
        get(root, source_of(url))
    assert get(root, source_of(url), force=True).warnings == []


def test_an_empty_folder_is_in_nobodys_way(root: Path, tmp_path: Path, archive: bytes) -> None:
    (root / HDF5_FOLDER).mkdir(parents=True)
    (tmp_path / "a.zip").write_bytes(archive)
    get(root, source_of(), from_file=tmp_path / "a.zip")
    assert (root / HDF5_FOLDER / MARKER).is_file()


def test_two_at_once(root: Path, tmp_path: Path, archive: bytes) -> None:
    fcntl = pytest.importorskip("fcntl")
    (root / WORK).mkdir(parents=True)
    (tmp_path / "a.zip").write_bytes(archive)
    with (root / WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(RuntimeError, match="another run is at work in"):
            get(root, source_of(), from_file=tmp_path / "a.zip")
    get(root, source_of(), from_file=tmp_path / "a.zip")


# The check


def test_differences_that_vary_are_warnings(whole: Path) -> None:
    shapes = {"train": (10, 9), "test": (4,)}
    with pytest.raises(ValueError, match="not the whole of modelnet40: expected 10 train shapes, came 9"):
        verify(source_of(shapes={"train": (10,)}), whole)
    report = verify(source_of(shapes=shapes, points=32), whole)
    assert report.warnings == [
        "9 train shapes, officially 10, as in other copies in use",
        "16 points a shape, officially 32",
    ]
    assert "usable, but not quite the official release" in str(report)
    assert verify(source_of(points=8), whole).warnings == []


def test_a_few_shapes_more_or_less(tmp_path: Path) -> None:
    folder = write_modelnet(tmp_path / HDF5_FOLDER, train=99, points=4)
    several = source_of(shapes={"train": (100,), "test": (4,)}, points=4)
    assert verify(several, folder).warnings == ["99 train shapes, officially 100"]
    assert verify(replace(several, lacking=0.01), folder).warnings == []


def test_classes_that_do_not_occur(tmp_path: Path) -> None:
    folder = write_modelnet(tmp_path / HDF5_FOLDER, test=2)
    report = verify(source_of(shapes={"train": (9,), "test": (2,)}), folder)
    assert report.warnings == ["only 2 of 3 classes occur in test"]


def damage(folder: Path, how: str) -> None:
    path = folder / "ply_data_train0.h5"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "gone":
        path.unlink()
    elif how == "no marker":
        (folder / MARKER).write_bytes(b"\xff\xfe\x00")
    else:
        with h5py.File(path, "r+") as file:
            if how == "label":
                file["label"][4] = 3
            elif how == "nan":
                file["data"][2, 3] = np.nan
            else:
                file["data"][5] = 0.25


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "ply_data_train0.h5: not a whole HDF5 file"),
        ("gone", "ply_data_train0.h5 is missing"),
        ("no marker", "shape_names.txt: expected a text file"),
        ("label", r"expected labels in 0\.\.2.*came 0\.\.3"),
        ("nan", "came NaN or infinity in 1 shapes, first 2"),
        ("flat", "damaged: all points of 1 shapes coincide, first 5"),
    ],
)
def test_verify_finds_damage(whole: Path, how: str, message: str) -> None:
    """Also where name, size and time of the file are what they were, and a cache of the whole one exists."""
    assert verify(source_of(), whole).warnings == []
    path = whole / "ply_data_train0.h5"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    damage(whole, how)
    if path.exists():
        os.utime(path, ns=times)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        verify(source_of(), whole)


def test_verify_without_data(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no data set {HDF5_FOLDER}"):
        verify(source_of(), root)


def test_modelnet40_normal(root: Path, tmp_path: Path) -> None:
    made = write_normal(tmp_path / "made" / NORMAL_FOLDER)
    source = source_of(
        name="modelnet40_normal",
        folder=NORMAL_FOLDER,
        marker="modelnet40_shape_names.txt",
        shapes={"train": (6,), "test": (4,)},
        classes=2,
        points=20,
    )
    given = tmp_path / "a.tar.gz"
    given.write_bytes(tarred(made, "gz", ""))
    report = get(root, source, from_file=given)
    assert report.warnings == []
    assert report.facts[0].split() == "train 6 shapes, 20 points, xyz + normal, labels 0 to 1".split()
    assert verify(replace(source, points=21), root).warnings == ["20 points a shape, officially 21"]
    path = root / NORMAL_FOLDER / "chair" / "chair_0002.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:15]).rstrip("\n"))
    assert verify(source, root).warnings == ["15 points a shape, officially 20"]
    path.write_text("".join([*lines[:3], "1,2,3\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"chair_0002\.txt, line 4: expected 6 numbers, came 3"):
        verify(source, root)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"chair_0002\.txt is missing"):
        verify(source, root)


def test_shapenetpart(server: Server, root: Path, tmp_path: Path) -> None:
    made = write_parts(tmp_path / "made" / PART_FOLDER)
    source = source_of(
        server.add("part.tar", tarred(made, "", f"data/{PART_FOLDER}")),
        name="shapenetpart",
        folder=PART_FOLDER,
        marker="synsetoffset2category.txt",
        shapes={"train": (8,), "val": (4,), "test": (6,)},
        archive_bytes=10**6,
        unpacked_bytes=10**6,
        classes=2,
        points=0,
        parts=5,
    )
    report = get(root, source)
    assert report.warnings == []
    assert re.fullmatch(
        r"train +8 shapes, \d\d to \d\d points, xyz \+ normal, labels 0 to 4", report.facts[0]
    )
    assert report.facts[-1] == "2 categories, 5 parts"
    with pytest.raises(ValueError, match="expected 6 parts, came 5"):
        verify(replace(source, parts=6), root)
    path = root / PART_FOLDER / "001" / "test0.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].rsplit(" ", 1)[0] + " 4\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"test0\.txt, line 3: expected a part of Mug \(0, 1\), came 4"):
        verify(source, root)


# The table


def test_the_table_names_what_open_dataset_reads() -> None:
    assert list(SOURCES) == ["modelnet40", "modelnet40_normal", "shapenetpart"]
    for name, source in SOURCES.items():
        assert source.name == name and len(source.mirrors) >= 3
        assert source.mirrors[0].url.startswith("https://shapenet.cs.stanford.edu/media/")
        assert len({mirror.url for mirror in source.mirrors}) == len(source.mirrors)
        for mirror in source.mirrors:
            assert re.fullmatch(r"https://[\w./-]+\.(zip|tar\.gz)", mirror.url)
            if mirror.checksum:
                assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", mirror.checksum)
    assert SOURCES["modelnet40"].mirrors[0].checksum == "md5:c9ab8e6dfb16f67afdab25e155c79e59"
    with pytest.raises(FileNotFoundError):
        open_dataset("modelnet40_normal", "gone", "train")


def test_data_readme_names_every_place() -> None:
    page = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    for source in SOURCES.values():
        for mirror in source.mirrors:
            assert mirror.url in page
            assert mirror.checksum is None or mirror.checksum.partition(":")[2] in page
        for place in source.by_hand:
            assert place in page
