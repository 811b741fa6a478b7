"""How programs end: a mistake in one line, a bug in one line and a file; and plug-ins, which run first."""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bixt3d.commands.repeats import Repeats
from bixt3d.mistakes import LIBRARIES, OURS, explain, is_below, is_mistake
from bixt3d.shipped import PACKAGE


@dataclass
class Ending:
    """How a program ends.

    Attributes:
        folder: Where the traceback of a bug goes; the system's folder for temporary files if None.
        whole: Print tracebacks.
    """

    folder: Path | None = None
    whole: bool = False


class BesideBars(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes what is logged to standard error, on a line of its own where a progress bar stands."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        tqdm = sys.modules.get("tqdm")  # without it there is no bar
        with nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(self.stream):
            super().emit(record)


def load_plugin(path: str | Path) -> None:
    """Run a Python file, which may register models, data sets and tasks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no Python file.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"--plugin: no file {path}")
    name = f"bixt3d_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or b"\0" in file.read_bytes():
        raise ValueError(f"--plugin: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle look classes up there
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # modules beside it, as for any program
    spec.loader.exec_module(module)


@contextmanager
def one_line_errors(stopped: str = "stopped", args: argparse.Namespace | None = None) -> Iterator[Ending]:
    """End the program with one line for what a user can mend, and with a bug's line and place.

    A mistake is an error that this package raises on purpose, or one of the system, such as a missing file.
    Anything else, and whatever comes from code of the user's own, is a bug: its whole traceback is left in a
    file. The other processes of several are left in order at a good end alone: after an error they may never
    come.

    Args:
        stopped: What Ctrl-C is answered with.
        args: Options of the program: with ``plugin``, files that are run first, and ``traceback``.
    """
    first = os.environ.get("RANK", "0") == "0"  # all of several processes read the same data
    level = logging.INFO if first else logging.WARNING
    repeats, handler = Repeats(), BesideBars()
    handler.addFilter(repeats)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # nobody asked for its fonts
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what is no text
    ending = Ending(whole=getattr(args, "traceback", False))
    try:
        for plugin in getattr(args, "plugin", ()):
            load_plugin(plugin)
        yield ending
        sys.stdout.flush()
        if "bixt3d.training.distributed" in sys.modules:
            from bixt3d.training.distributed import leave_workers

            leave_workers()
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what a shell calls the same end of other programs
    except KeyboardInterrupt as error:
        if first:
            print(f"\n{error if error.args else stopped}", file=sys.stderr)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))  # as shells call the end by a signal
    except Exception as error:
        sys.exit(_said(error, ending))
    finally:
        for line in repeats.rest():
            print(line, file=sys.stderr)


def _said(error: Exception, ending: Ending) -> str:
    """Return the last line of a program that ends with an error; leave a bug's traceback in a file."""
    if ending.whole:
        traceback.print_exception(error)
    if is_mistake(error, str(_program(traceback.extract_tb(error.__traceback__)))):
        return f"error: {explain(error)}"
    at = _at(error)
    said = f"error: {type(error).__name__}: {error}\n  at {at}"
    if ending.whole:
        return said
    return f"{said}; the whole traceback is in {_leave(error, ending)} (--traceback prints it)"


def _program(frames: list[traceback.FrameSummary]) -> Path:
    # The first frame is `one_line_errors`, the second the program around which it stands, or a plug-in's
    # loader.
    return Path(frames[min(1, len(frames) - 1)].filename).resolve()


def _at(error: Exception) -> str:
    """Return the file and line of an error: of a text that is no Python, or of the innermost call."""
    if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
        return f"{_shown(error.filename)}:{error.lineno}"
    place = _place(traceback.extract_tb(error.__traceback__))
    return f"{_shown(place.filename)}:{place.lineno}, in {place.name}"


def _place(frames: list[traceback.FrameSummary]) -> traceback.FrameSummary:
    """Return the innermost frame of what a user plugged in; else of the program and this package."""
    called = [f for f in frames[1:] if not f.filename.startswith("<")]
    known = [f for f in called if not is_below(f.filename, LIBRARIES) or is_below(f.filename, OURS)]
    theirs = [f for f in known if not is_below(f.filename, (*OURS, _program(frames)))]
    return (theirs or known or frames)[-1]


def _leave(error: Exception, ending: Ending) -> Path:
    folder = ending.folder or Path(tempfile.gettempdir())
    rank = os.environ.get("RANK", "0")
    name = "traceback" if folder == ending.folder else f"bixt3d-traceback-{os.getpid()}"
    path = folder / (f"{name}.txt" if rank == "0" else f"{name}-{rank}.txt")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:  # a full disk hides no error
        traceback.print_exception(error)
    return path


def _shown(filename: str) -> str:
    path = Path(filename).resolve()
    for base in (PACKAGE.parent, Path.cwd()):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)
