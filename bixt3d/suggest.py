"""Words of messages: names that errors suggest or refuse, and numbers with their nouns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

ALIKE = 0.7  # a slip or two; words that merely share letters, as tisch and Lutscher do, reach 0.62
BEGUN = 3  # letters from which on the beginning of a name stands for it


def nearest(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, whatever the case, or nothing.

    Close is a name with a slip or two, one of the same letters, or one that begins with what was given.
    """
    wanted, names = str(name).casefold(), {one.casefold(): one for one in reversed(list(known))}
    close = difflib.get_close_matches(wanted, list(names), n=1, cutoff=ALIKE)
    if not close and len(wanted) >= BEGUN:
        short = sorted(names, key=len)
        close = [one for one in short if sorted(one) == sorted(wanted) or one.startswith(wanted)]
    return f"; did you mean {names[close[0]]!r}?" if close else ""


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
