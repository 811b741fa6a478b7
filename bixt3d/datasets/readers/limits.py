"""How much a file may unpack to: no more than an honest file of its size holds.

A header of a few bytes can announce any number of points, and a compressed block can hold a thousand times
its size.
"""

from __future__ import annotations

from bixt3d.datasets.files import megabytes

FREE = 1 << 28  # bytes that any file may unpack to
RATIO = 100  # beyond, how many times its size; clouds pack three times, labels fifty times


def check_unpacked(announced: int, held: int) -> None:
    """Raises ValueError if a file announces far more bytes than the `held` ones can stand for."""
    if announced > max(FREE, RATIO * held):
        raise ValueError(
            f"it announces {megabytes(announced)} of numbers and has {megabytes(held)} for them: damaged, or "
            "made to fill the memory"
        )
