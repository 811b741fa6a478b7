"""A run's folder: its name, the lock that one run holds on it, and the files there that are the run's own.

The lock is the system's, on a file that stays and so says that a run lives there; it ends with the process,
however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bixt3d.config import Config, override
from bixt3d.training.distributed import Workers
from bixt3d.training.resume import FILE as STATE
from bixt3d.training.resume import check_folder, load_state

LOCK = ".bixt3d_run"
# What a run writes; of these names, files that no run wrote are left alone.
OWN = (
    *("config.yaml", "environment.json", "metrics.jsonl", "result.json", "tensorboard", "wandb"),
    *("last.safetensors", "best.safetensors", "last_test.csv", "best_test.csv"),
    *(STATE, f"{STATE}.previous", "diverged.pt"),
)
KEPT = re.compile(r"epoch_\d{4,}\.safetensors")  # of ``train.keep_every``
# As `write_atomically` calls them.
HALF = re.compile(rf"\.({'|'.join([*map(re.escape, OWN), KEPT.pattern])})\.\d+\.tmp")
STATES = (STATE, f"{STATE}.previous")
BYTE = 1 << 30  # the locked one, where Windows locks: beyond the text, which others may read
MOST = 10_000  # names that are tried


def run_folder(config: Config) -> Path:
    """Return the folder that ``run.dir`` names, with the seed in place of ``{seed}``.

    Raises:
        ValueError: If it is empty, or the current folder.
    """
    stated = config.run.dir.replace("{seed}", str(config.train.seed)).strip()
    return check_name(Path(stated).expanduser() if stated else Path())


def check_name(folder: Path) -> Path:
    """Return a run's folder; raise ValueError for the current one, in which others' files lie."""
    if folder.absolute() == Path.cwd():
        raise ValueError("run.dir: expected a folder of the run's own, got the current one")
    return folder


def half_written(folder: Path) -> Iterator[Path]:
    """Yield the files in a run's folder that a kill left half written."""
    for path in folder.glob(".*.tmp"):
        if HALF.fullmatch(path.name):
            yield path


def check_foreign(folder: Path) -> None:
    """Refuse to start a run in a folder that holds files under a run's names that no run wrote.

    Raises:
        FileExistsError: Naming them.
    """
    if (folder / LOCK).is_file():
        return
    found = [name for name in OWN if (folder / name).exists()]
    if not found or any(_is_state(folder / name) for name in STATES):  # runs of before have no lock
        return
    raise FileExistsError(
        f"{folder} holds {', '.join(found)}, which no run wrote: move them, or choose another folder with "
        "--set run.dir=FOLDER"
    )


def _is_state(path: Path) -> bool:
    try:
        return {"fixed", "sums", "description"} <= set(load_state(path))
    except (OSError, ValueError):
        return False


class FolderLock:
    """The lock on a run's folder, held until `release` or the end of the process.

    A folder that is not there is made. In a process that holds the lock already it does nothing.

    Args:
        folder: The run's folder.

    Raises:
        FileExistsError: If another process holds it.
        NotADirectoryError: If a file is in the way.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock."""
        self.path, self.made = folder / LOCK, _missing(folder)
        self.close: Any = None  # gives it back, at the latest when the last name of this object is gone
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(f"{folder} is a file: expected a folder for the run") from None
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _lock(file):
                holder = _holder(self.path)
                os.close(file)
                if holder == _myself():
                    return
                who = f" (process {holder['pid']} on {holder['host']})" if holder else ""
                raise FileExistsError(
                    f"{folder} is in use by another run{who}: wait for it, stop it, or choose another folder "
                    "with --set run.dir=FOLDER"
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(self.path)):
                    break
            os.close(file)  # its last holder has removed it meanwhile
        self.close = weakref.finalize(self, os.close, file)
        os.ftruncate(file, 0)
        os.write(file, (json.dumps(_myself()) + "\n").encode())

    def release(self) -> None:
        """Let the folder go; one that was made for nothing is removed."""
        if self.close is None or not self.close.alive:
            return
        folder = self.path.parent
        if self.made and [path.name for path in folder.iterdir()] == [LOCK]:
            with contextlib.suppress(OSError):  # Windows removes no open file
                self.path.unlink()
                for place in self.made:
                    place.rmdir()
        self.close()


def take_folder(
    config: Config, resume: bool, workers: Workers, numbered: bool = False
) -> tuple[Config, FolderLock | None]:
    """Lock the folder of a run, before its data are read.

    Args:
        config: The settings.
        resume: Whether the run in the folder goes on.
        workers: Processes that share the run: the first takes the lock for all.
        numbered: Where the folder holds a run already, a new run takes the first free one of ``dir_2``,
            ``dir_3`` and so on, and a resumed one the last that there is.

    Returns:
        The settings with the folder's name, and the lock, None in the other processes.

    Raises:
        FileExistsError: If the folder holds a run and ``resume`` is not set, if another run is in it, or if
            it holds files under a run's names that no run wrote.
        FileNotFoundError: If ``resume`` is set and there is no state.
        ValueError: If ``run.dir`` is empty or the current folder, or the log there is none of a run.
    """
    base = run_folder(config)
    error: Exception | None = None
    number, lock = 0, None
    if workers.first:
        try:
            number, lock = _take(base, resume, numbered)
        except (OSError, ValueError) as reason:
            error = reason
    number = workers.max(number)  # the others take the first one's word
    if number == 0:
        raise error or FileExistsError(f"{base}: refused by the first process")
    if number > 1 and workers.first:
        print(
            f"{base} holds a run already: {'the last one' if resume else 'this one'} is in "
            f"{_numbered(base, number)}"
        )
    return override(config, run={"dir": str(_numbered(base, number))}), lock


def _take(base: Path, resume: bool, numbered: bool) -> tuple[int, FolderLock]:
    if resume:
        number = 1
        while numbered and has_state(_numbered(base, number + 1)):
            number += 1
        return number, _take_one(_numbered(base, number), True)
    for number in range(1, MOST):
        try:
            return number, _take_one(_numbered(base, number), False)
        except FileExistsError:
            if not numbered:
                raise
    raise FileExistsError(f"{base} and {MOST:,} names after it are taken: choose another run.dir")


def _take_one(folder: Path, resume: bool) -> FolderLock:
    _check(folder, resume)
    lock = FolderLock(folder)
    try:
        _check(folder, resume)  # another may have been faster
    except BaseException:
        lock.release()
        raise
    return lock


def _check(folder: Path, resume: bool) -> None:
    check_folder(folder, resume, Workers())
    if resume:
        read_log(folder / "metrics.jsonl")
    else:
        check_foreign(folder)


def has_state(folder: Path) -> bool:
    """Return whether a folder holds a run to resume."""
    return any((folder / name).is_file() for name in STATES)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's log; a last line that was cut off is left out.

    Raises:
        ValueError: If a line is no row of a training, naming it.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            if number == len(lines):
                break
            row = line
        if row is None:
            continue
        if not isinstance(row, dict) or not all(type(row.get(key)) is int for key in ("epoch", "step")):
            got = line.decode(errors="replace")[:60]
            raise ValueError(
                f"{path}, line {number}: expected a row of a training with epoch and step, got {got!r}; "
                "remove the line"
            )
        rows.append(row)
    return rows


def _numbered(base: Path, number: int) -> Path:
    return base if number == 1 else base.with_name(f"{base.name}_{number}")


def _missing(folder: Path) -> list[Path]:
    """Return a folder and those above it that are not there, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _myself() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _holder(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and set(found) == {"pid", "host"}:
            return found
    return None


def _lock(descriptor: int) -> bool:
    """Lock a file for this process, if no other has; where the file system knows no locks, it is free."""
    import errno

    held = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in held
    return True
