from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bixt3d.datasets.acquire.archives import unpack
from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from tests.datasets.acquire.sets import get, source_of, tar_of, tarred, zip_of


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
        "zip, bomb": lambda: zip_of(("zeros", bytes(2_000_000))),
        "tar slip": lambda: tar_of(("../escaped.txt", b"x")),
        "tar, absolute": lambda: tar_of((str(outside / "escaped.txt"), b"x")),
        "tar, link": lambda: tar_of(("a", b""), type=tarfile.SYMTYPE, linkname="/etc"),
        "tar, hard link": lambda: tar_of(("a", b""), type=tarfile.LNKTYPE, linkname="../escaped.txt"),
        "tar, device": lambda: tar_of(("a", b""), type=tarfile.CHRTYPE),
        "tar, pipe": lambda: tar_of(("a", b""), type=tarfile.FIFOTYPE),
        "tar, bomb": lambda: tar_of(("zeros", bytes(2_000_000)), mode="xz"),
        "tar, many small": lambda: tar_of(*((f"{i}", bytes(30_000)) for i in range(9)), mode="gz"),
        "tar, bomb at its end": lambda: gzip.compress(tar_of(("a", b"x")) + bytes(3_000_000)),
        "tar, header": lambda: tar_of(("a", b"x"), mode="gz", pax_headers={"comment": "x" * 2_000_000}),
    }
    return made[kind]()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("zip slip", "outside its folder"),
        ("zip slip, deep", "outside its folder"),
        ("zip slip, windows", "outside its folder"),
        ("zip, absolute", "outside its folder"),
        ("zip, drive", "outside its folder"),
        ("zip, link", "is a link"),
        ("zip, encrypted", "encrypted"),
        ("zip, bomb", "would be over 1 MB or"),
        ("tar slip", "outside its folder"),
        ("tar, absolute", "outside its folder"),
        ("tar, link", "is a link, a device"),
        ("tar, hard link", "is a link, a device"),
        ("tar, device", "is a link, a device"),
        ("tar, pipe", "is a link, a device"),
        ("tar, bomb", "would be over 1 MB or"),
        ("tar, many small", "would be over 1 MB or"),
        ("tar, bomb at its end", "is over 2 MB"),
        ("tar, header", "is over 2 MB"),
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


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_one_bad_member_keeps_all_others_from_being_written(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    given, into = tmp_path / "a.bin", tmp_path / "into"
    given.write_bytes(pack(("good.txt", b"x"), ("../bad.txt", b"y")))
    with pytest.raises(ValueError, match="refused"):
        unpack(given, into, 1000)
    assert list(tmp_path.iterdir()) == [given]


@pytest.mark.parametrize("size", [10**15, -(10**9)])
def test_a_member_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path, size: int) -> None:
    entry = tarfile.TarInfo("zeros")
    entry.size = size
    (tmp_path / "a.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(ValueError, match=r"would be over 1 MB|not a whole"):
        unpack(tmp_path / "a.tar", tmp_path / "into", 1_000_000)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bixt3d.datasets.acquire.archives.MOST_MEMBERS", 3)
    for content in (zip_of(*((f"{i}", b"") for i in range(4))), tar_of(*((f"{i}", b"") for i in range(4)))):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(ValueError, match="or 3 files"):
            unpack(tmp_path / "a.bin", tmp_path / "into", 1000)


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    for content in (zip_of(("a", b"x"), ("a/b", b"y")), tar_of(("a", b"x"), ("a/b", b"y"))):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.bin: not a whole zip or tar archive"):
            unpack(tmp_path / "a.bin", tmp_path / "into", 1000)


def test_python_without_the_data_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    (tmp_path / "a.tar").write_bytes(tar_of(("a", b"x")))
    with pytest.raises(RuntimeError, match=r"expected Python 3\.10\.12, 3\.11\.4 or later, got 3\."):
        unpack(tmp_path / "a.tar", tmp_path / "into", 1000)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab./\\: "), min_size=1, max_size=8), min_size=1, max_size=3))
def test_no_name_leaves_the_folder(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    base = tmp_path_factory.mktemp("names")
    for packed in (zip_of(*((name, b"x") for name in names)), tar_of(*((name, b"x") for name in names))):
        (base / "archive").write_bytes(packed)
        try:
            unpack(base / "archive", base / "into", 1000)
        except ValueError:
            assert not (base / "into").exists()
        assert {path.name for path in base.iterdir()} <= {"archive", "into"}
        shutil.rmtree(base / "into", ignore_errors=True)


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_damaged_tar(root: Path, tmp_path: Path, whole: Path, kind: str) -> None:
    packed = tarred(whole, kind, HDF5_FOLDER)
    given = tmp_path / "a.tar"
    for cut in (len(packed) // 2, len(packed) - 30 if kind else len(packed) // 3):
        given.write_bytes(packed[:cut])
        with pytest.raises(ValueError, match=r"a\.tar: (not a whole|.*is missing)"):
            get(root, source_of(), from_file=given)
    if kind:
        flipped = bytearray(packed)
        flipped[len(packed) // 2] ^= 1
        given.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"a\.tar: not a whole"):
            get(root, source_of(), from_file=given)
    assert list(root.iterdir()) == []


def test_tar_that_ends_after_a_whole_member(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(("a", b"x"))[:1024])
    with pytest.raises(ValueError, match="its end is missing"):
        unpack(tmp_path / "a.tar", tmp_path / "into", 1000)


def test_zip_with_backslashes(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of(("data\\", b""), ("data\\sub\\a.txt", b"x")))
    unpack(tmp_path / "a.zip", tmp_path / "into", 1000)
    assert (tmp_path / "into" / "data" / "sub" / "a.txt").read_bytes() == b"x"
