"""Whether an error is a mistake of a user, which one line explains, or a bug, whose place matters."""

from __future__ import annotations

import errno
import os
import site
import sysconfig
import traceback
from pathlib import Path

from bixt3d.shipped import PACKAGE

# Folders of the checkout whose errors are ours, too.
OURS = (PACKAGE, *(PACKAGE.parent / name for name in ("tools", "benchmarks")))
# The system's packages, too, where an environment sees them.
_PLACES = (
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    *(*site.getsitepackages(), site.getusersitepackages()),
)
LIBRARIES = tuple({Path(place).resolve() for place in _PLACES})


def is_mistake(error: BaseException, program: str = "") -> bool:
    """Return whether an error is what a user did, rather than a bug, of theirs or ours.

    A mistake is an error that this package raises on purpose, or one of the system, such as a missing file.
    Whatever comes from code of the user's own is a bug.

    Args:
        error: The error, with its traceback.
        program: A file whose errors are ours as well.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = (*OURS, Path(program).resolve()) if program else OURS
    if any(not is_below(frame.filename, (*LIBRARIES, *ours)) for frame in frames):
        return False
    if error.__cause__ is not None and not isinstance(error.__cause__, OSError):
        if any(not is_below(f.filename, (*LIBRARIES, *ours)) for f in _frames_of_causes(error)):
            return False
    if not frames or isinstance(error, OSError):
        return True
    # A line that says raise was meant; torch's own errors end at the line of ours that called it.
    return is_below(frames[-1].filename, ours) and (frames[-1].line or "").startswith("raise ")


def explain(error: BaseException) -> str:
    """Return what an error says; of a place that the system bars, what is in the way, and what to do."""
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not isinstance(error, OSError) or not isinstance(name, (str, bytes)):
        return str(error)
    path = Path(os.fsdecode(name))
    file = next((one for one in (path, *path.parents) if os.path.isfile(one)), None)
    there = next((one for one in (path, *path.parents) if os.path.exists(one)), path)
    frames = traceback.extract_tb(error.__traceback__)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and file is not None:
        return f"{'' if file == path else f'{path}: '}{file} is a file, no folder; name another place"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder; name a file"
    if error.errno == errno.ENOENT and frames and frames[-1].name == "mkdir":
        return f"{path}: no folder can be made there; name another place"
    if error.errno == errno.EROFS:
        return f"{there}: nothing can be written there, it is read-only; name another place"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return str(error)
    if not os.access(there, os.R_OK | (os.X_OK if os.path.isdir(there) else 0)):
        return f"{there}: no permission to read it; ask its owner, or name another"
    return f"{there}: no permission to write there; name another place"


def is_below(filename: str, folders: tuple[Path, ...]) -> bool:
    """Return whether a file of a traceback lies in one of the folders, or is none, as <frozen ...>."""
    path = Path(filename).resolve()
    return filename.startswith("<") or any(path.is_relative_to(folder) for folder in folders)


def _frames_of_causes(error: BaseException) -> list[traceback.FrameSummary]:
    frames: list[traceback.FrameSummary] = []
    cause = error.__cause__
    while cause is not None:
        frames += traceback.extract_tb(cause.__traceback__)
        cause = cause.__cause__
    return frames
