"""The files beside a .gltf that belong to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bixt3d.datasets.readers.gltf import companions


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        (["a.bin", "b%20c.bin"], ["a.bin", "b c.bin"]),
        (["data:application/octet-stream;base64,AAAA", None, "a.bin"], ["a.bin"]),
        (["missing.bin", "../a.bin", "link.bin", "a.bin\0", "x" * 999], []),
        ([], []),
    ],
)
def test_files_beside_a_gltf(uris: list[str | None], names: list[str], tmp_path: Path) -> None:
    for name in ("a.bin", "b c.bin"):
        (tmp_path / name).write_bytes(b"data")
    (tmp_path / "link.bin").symlink_to(tmp_path / "a.bin")
    tree = {"buffers": [{"byteLength": 4} if uri is None else {"uri": uri} for uri in uris]}
    for name in ("a.gltf", "A.GLTF", "a.glb"):
        (tmp_path / name).write_text(json.dumps(tree))
        expected = [] if name == "a.glb" else [tmp_path / one for one in names]
        assert companions(tmp_path / name) == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\xfa", b"[1]", b"3", "[" * 100_000, {"buffers": [1]}, {"buffers": [{"uri": 1}]}],
)
def test_a_damaged_gltf_has_none(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.gltf"
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert companions(path) == []
    assert companions(tmp_path / "none.gltf") == []
