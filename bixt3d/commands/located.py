"""Data sets by name: the folder where one is, or the command that gets it."""

from __future__ import annotations

from pathlib import Path

SHAPES = "shapes"  # the synthetic ones, and the folder that they are in
SAMPLED = ("psb_benchmark_v0_normal",)  # folders in ShapeNetPart's layout that are made from others' meshes


def locate(name: str, root: str | Path) -> tuple[Path | None, str]:
    """Look for a data set, without reading it.

    Args:
        name: As ``data.name`` of a config.
        root: As ``data.root``.

    Returns:
        Its folder, None if it is not there; and how to get it: a command, or where that is described.
    """
    from bixt3d.datasets.acquire import SOURCES
    from bixt3d.datasets.files import find_folder
    from bixt3d.datasets.modelnet40 import HDF5_FOLDER

    base = Path(root).expanduser()
    if name == SHAPES or (name == "shapenetpart" and base.name == SHAPES):
        parent = base.parent if base.name == SHAPES else base
        marker = parent / SHAPES / HDF5_FOLDER
        return marker.parent if marker.is_dir() else None, f"bixt3d data make --root {parent}"
    if name in SOURCES:
        source = SOURCES[name]
        try:
            return find_folder(base, source.folder, source.marker), ""
        except FileNotFoundError:
            if base.name in SAMPLED:
                return None, "see data/README.md, which says how it is made"
            return None, f"bixt3d data get {name} --root {base}"
    return base if base.is_dir() else None, "see data/README.md, which shows the layout of your own files"
