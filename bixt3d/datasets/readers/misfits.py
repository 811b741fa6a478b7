"""Arrays that are no clouds: what they seem to be, and what becomes a cloud of them."""

from __future__ import annotations

MOST_LEFT = 64  # columns that may be left out
CHANNELS = 16  # rows of an array that may be channels, where its columns are many more


def of_three_axes(first: int, second: int, channels: int) -> str:
    """Say what an array is that is no cloud, and how to save it: one cloud in a grid, or a batch."""
    shape = (first, second, channels)
    if 3 <= second < channels // 8:
        return f"a batch {shape}: save its clouds one a file, transposed"
    if 3 <= first <= CHANNELS < channels:
        return f"{shape}: save array.reshape({first}, -1).T if it is one cloud, as of a depth camera"
    if channels < 3:
        return f"an array {shape}"
    return (
        f"{shape}: save array.reshape(-1, {channels}) if it is one cloud, as of a depth camera; of a batch "
        "save the clouds one a file"
    )


def too_wide(left: int) -> str:
    """Say that so many columns are more than xyz and the features, as those of a depth image."""
    return (
        f"expected xyz and the features of points, got {left} columns more: make points of a depth image "
        f"first; name what else they are, such as data.features=[own:{left}], or leave them out"
    )
