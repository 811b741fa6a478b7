"""Notes that are the same of many files: the first of them are shown, and how many more there are."""

from __future__ import annotations

import logging
import re
from collections import Counter

SHOWN = 3
NOTES = ("bixt3d.datasets", "bixt3d.inference.predictor")  # whose notes begin with a file
LEFT_OUT = "left out"  # before the name of a file that is not answered, which is said of each
NUMBER = re.compile(r"\d+(\.\d+)?")


class Repeats(logging.Filter):
    """Lets the first `SHOWN` of notes through that differ in their file and their numbers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is shown; one that is no note of a file always is."""
        if not record.name.startswith(NOTES) or record.levelno != logging.WARNING:
            return True
        first, colon, note = record.getMessage().partition(": ")
        if not colon or "\n" in note or first == LEFT_OUT:
            return True
        kind = NUMBER.sub("…", note)
        self.seen[kind] += 1
        return self.seen[kind] <= SHOWN

    def rest(self) -> list[str]:
        """Return a line for each kind of note of which there were more than are shown."""
        counts = {kind: count - SHOWN for kind, count in self.seen.items() if count > SHOWN}
        return [f"{count} more file{'s' if count > 1 else ''}: {kind}" for kind, count in counts.items()]
