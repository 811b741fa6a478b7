"""Data sets by name, and clouds of files.

Names are imported at their first use, so that `bixt3d.datasets.readers` reads files without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bixt3d.datasets.holdout import hold_out
    from bixt3d.datasets.overview import info
    from bixt3d.datasets.preprocess import Preprocess
    from bixt3d.datasets.registry import (
        cuts_clouds,
        list_datasets,
        open_dataset,
        prepare_split,
        register_dataset,
    )
    from bixt3d.datasets.spheres import unit_sphere
    from bixt3d.datasets.split import Cloud, PartCloud, Split

__all__ = [
    "Cloud",
    "PartCloud",
    "Preprocess",
    "Split",
    "cuts_clouds",
    "hold_out",
    "info",
    "list_datasets",
    "open_dataset",
    "prepare_split",
    "register_dataset",
    "unit_sphere",
]

_ROOMS = {
    "holdout": ("hold_out",),
    "overview": ("info",),
    "preprocess": ("Preprocess",),
    "registry": ("cuts_clouds", "list_datasets", "open_dataset", "prepare_split", "register_dataset"),
    "spheres": ("unit_sphere",),
    "split": ("Cloud", "PartCloud", "Split"),
}
_ROOM = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used."""
    if name not in _ROOM:
        raise AttributeError(f"module 'bixt3d.datasets' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"bixt3d.datasets.{_ROOM[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
