"""Progress of long work: a bar on a terminal, elsewhere a line now and then, so that nothing is silent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SILENT = 2.0  # seconds after which work that is not done says how far it is
LONGEST = 60.0  # seconds between two lines; they come at 2, 4, 8 ... seconds before


@contextmanager
def progress(what: str, total: int, unit: str = "clouds") -> Iterator[Callable[[int], None]]:
    """Show how far work is, on standard error; work that is done at once shows nothing.

    Args:
        what: Is done, such as "evaluating".
        total: How many there are to do.
        unit: Of what.

    Yields:
        A function that is told how many more are done.
    """
    terminal = sys.stderr.isatty()
    start, done, due, bar = time.monotonic(), 0, SILENT, None

    def more(count: int) -> None:
        nonlocal done, due, bar
        done += count
        passed = time.monotonic() - start
        if bar is not None:
            bar.update(count)
        elif terminal and passed > SILENT / 2 and done < total:
            bar = _bar(what, total, unit, done, passed)
        elif not terminal and passed > due and done < total:
            due = passed + min(passed, LONGEST)
            left = passed / max(done, 1) * (total - done)
            print(f"{what}: {done:,} of {total:,} {unit}, {left:.0f} s left", file=sys.stderr, flush=True)

    try:
        yield more
    finally:
        if bar is not None:
            bar.close()


def _bar(what: str, total: int, unit: str, done: int, passed: float) -> Any:
    from tqdm import tqdm

    bar = tqdm(desc=what, total=total, unit=f" {unit}", leave=False, dynamic_ncols=True)
    bar.start_t -= passed  # rate and time left count from the beginning
    bar.update(done)
    return bar
