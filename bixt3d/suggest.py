"""Words of messages: names that errors suggest or refuse, and numbers with their nouns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(names: Sequence[str], known: Sequence[str]) -> str:
    """Return ``"; not known: x (did you mean 'y'?)"`` of the names that are not known, or nothing."""
    folded = {name.casefold() for name in known}
    others = [name for name in dict.fromkeys(names) if name.casefold() not in folded]
    shown = [f"{name}{f' ({close[2:]})' if (close := nearest(name, known)) else ''}" for name in others[:5]]
    return f"; not known: {', '.join(shown)}{' ...' if len(others) > 5 else ''}" if others else ""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, ``1 file``, ``2 files``, in the given plural if it has no plain s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def check_free(name: object, taken: Iterable[str], what: str) -> None:
    """Raise ValueError for a name that is none, or that the package has given to ``what`` of its own."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"name: expected a name, got {name!r}")
    if name in taken:
        raise ValueError(f"name: {name} is a {what} of the package: expected another name")
