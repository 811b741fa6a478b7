"""Weights that ship with the project: their names and files, checked by size and SHA-256.

The files lie in the folder ``weights`` of a checkout, and inside the package where a wheel was installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bixt3d.shipped import PACKAGE, shipped

LIST = PACKAGE / "weights.json"
FOLDER = shipped("weights")


def read_list() -> dict[str, dict[str, Any]]:
    """Return what the list says of each shipped model: file, bytes, sha256, score, facts of its card."""
    listed: dict[str, dict[str, Any]] = json.loads(LIST.read_text(encoding="utf-8"))
    return listed


def list_weights() -> list[str]:
    """Return the sorted names of the weights that ship with the project, as `load_model` takes them."""
    return sorted(read_list())


def find_weights(name: str) -> Path | None:
    """Return the file of weights that ship with the project, whole and unchanged; None for another name.

    Raises:
        FileNotFoundError: Saying where to get the file, if it is not here.
        ValueError: If it is not the file that was shipped.
    """
    stated = read_list().get(name)
    if stated is None:
        return None
    path: Path = FOLDER / stated["file"]
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} ships with the project, but its file {path} is not here: a checkout has it back by "
            "`git checkout weights`, an installation by another one. Or take "
            f"weights/{path.name} ({stated['bytes']:,} bytes, sha256 {stated['sha256']}) from the project's "
            "repository and give its path instead of the name"
        )
    check_file(path, stated)
    return path


def checked(path: Path) -> Path:
    """Return a checkpoint's path; if it is a file that ships, however it was named, check it.

    Raises:
        ValueError: If it is not the file that was shipped.
    """
    stated = read_list().get(path.stem)
    if stated is not None and path.resolve() == FOLDER / stated["file"]:
        check_file(path, stated)
    return path


def place_beside(path: Path) -> Path:
    """Return the folder for what is made from a checkpoint: its own, but ``runs`` for weights that ship."""
    return Path("runs") if path.parent.resolve() == FOLDER else path.parent


def check_file(path: Path, stated: Mapping[str, Any]) -> None:
    """Raise ValueError unless a file has the ``bytes`` and the ``sha256`` that are stated for it."""
    size = path.stat().st_size
    wrong = f"{size:,} bytes instead of {stated['bytes']:,}" if size != stated["bytes"] else None
    if wrong is None and (found := checksum(path)) != stated["sha256"]:
        wrong = f"sha256 {found} instead of {stated['sha256']}"
    if wrong is not None:
        raise ValueError(
            f"{path} is not the file that was shipped: it has {wrong}. It is damaged or of another version; "
            f"take weights/{path.name} anew from the project's repository, or give another file's path"
        )


def checksum(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
