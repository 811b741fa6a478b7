"""The log of a run: settings, environment, a row of metrics an epoch, its loggers, a progress bar."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bixt3d.config import Config, dotted, to_dict
from bixt3d.training.boards import Board, check_loggers, open_board
from bixt3d.training.device import has_bfloat16
from bixt3d.training.files import write_text
from bixt3d.training.folder import FolderLock, check_foreign, half_written, read_log

LONGEST = 60.0  # seconds without a line, where there is no bar

logger = logging.getLogger(__name__)


def settings(config: Config, path: Path, resumed: bool = False, epoch: int = 0) -> str:
    """Return the text of a run's ``config.yaml``, under lines that say which settings a resumed run changes.

    Args:
        config: The settings.
        path: The file of before, which tells what they were.
        resumed: Whether the run was begun before.
        epoch: The epochs that are done.
    """
    from bixt3d.yaml import dump_yaml, parse_yaml

    text, lines, before = dump_yaml(to_dict(config)), [], {}
    if resumed:
        with contextlib.suppress(OSError, ValueError):  # one that is gone or damaged is written anew
            old = path.read_text(encoding="utf-8")
            lines, before = [line for line in old.splitlines() if line.startswith("#")], parse_yaml(old)
    was, now = dotted(before), dotted(parse_yaml(text))
    changed = [key for key in now if key in was and now[key] != was[key] and not key.startswith("run.")]
    if changed:
        told = " ".join("; ".join(f"{key} was {was[key]}, now {now[key]}" for key in changed).split())
        logger.warning("%s: other settings after epoch %s: %s", path.parent, epoch, told)
        lines.append(f"# after epoch {epoch}: {told}")
    return "".join(f"{line}\n" for line in lines) + text


class RunLog:
    """The log in a run's folder, and its progress bar.

    Args:
        run_dir: The folder.
        config: The settings, written to ``config.yaml``.
        device: Where it computes.
        epoch: The epochs that are done already.
        resumed: The run was begun before: what its settings were, where they change, stays in the file.
        unwritten: Rows that could not be written before.
        active: Whether this process writes: of several, only the first does.
        progress: Show a progress bar, where standard error is a terminal.
        shown: Names of the metrics that the line of an epoch shows.
        over: Nothing is left to train.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        device: torch.device,
        epoch: int = 0,
        resumed: bool = False,
        unwritten: str = "",
        active: bool = True,
        progress: bool = True,
        shown: Sequence[str] = (),
        over: bool = False,
    ) -> None:
        """Make the folder and write what does not change."""
        self.run_dir, self.active = run_dir, active
        self.progress = progress and sys.stderr.isatty()
        self.shown = tuple(shown)
        self.bar: Any = None
        self.boards: dict[str, Board] = {}
        self.validating = "validating" if self.progress else ""  # what a bar of it is called
        self.epochs, self.told = config.train.epochs, 0.0
        self.silent = math.inf if not progress else 1.0 if self.progress else LONGEST
        self.done, self.total = 0, 0
        self.metrics = run_dir / "metrics.jsonl"
        self.unwritten = unwritten
        self.failed: set[str] = set()
        self.lock: FolderLock | None = None
        loggers = check_loggers(config.run)
        if not active:
            return
        check_foreign(run_dir)
        self.lock = FolderLock(run_dir)
        for half in half_written(run_dir):  # left by a kill
            half.unlink()
        if not (resumed and over):  # else nothing is trained, and what is said stays true
            write_text(run_dir / "config.yaml", settings(config, run_dir / "config.yaml", resumed, epoch))
            write_text(run_dir / "environment.json", json.dumps(environment(device), indent=2) + "\n")
        step = self._rewind(epoch)
        self.boards = {name: open_board(name, run_dir, config, step) for name in loggers}

    def start(self, done: int, total: int) -> None:
        """Open the progress bar at step ``done`` of ``total``."""
        self.done, self.total = done, total
        self.told = 0.0 if self.progress else time.monotonic()
        if self.active:
            from tqdm import tqdm

            self.bar = tqdm(
                initial=done, total=total, unit="step", disable=not self.progress, dynamic_ncols=True
            )

    def tick(self, loss: Tensor | None = None) -> None:
        """Count a step on the progress bar; its loss is shown, and a GPU waited for, once a second.

        Without a terminal a line says how far an epoch is, once a minute.
        """
        if self.bar is None:
            return
        self.done += 1
        self.bar.update()  # none where there is no terminal
        if time.monotonic() - self.told > self.silent:
            self.told = time.monotonic()
            steps = self.total // self.epochs
            epoch = min(self.epochs, 1 + self.done // steps)
            shown = "" if loss is None else f", loss {float(loss):.3f}"
            if self.progress:
                self.bar.set_description_str(f"epoch {epoch}/{self.epochs}{shown}", refresh=False)
            elif self.done % steps:  # else its epoch's line follows
                line = f"epoch {epoch}/{self.epochs}: step {self.done % steps:,} of {steps:,}{shown}"
                self._try("standard output", lambda: self._show(line))

    def row(self, row: dict[str, float], epochs: int) -> None:
        """Write the metrics of an epoch, and show the main ones.

        What cannot be written, as on a full disk, is kept and tried again with the next row: losing a line is
        no reason to lose a training.
        """
        if not self.active:
            return
        self.unwritten += json.dumps(row) + "\n"
        self._try("metrics.jsonl", self._write_rows)
        values = {name: value for name, value in row.items() if name not in ("epoch", "step")}
        for name, board in list(self.boards.items()):
            self._try(name, partial(board.write, values, int(row["step"])), Exception)
        line = self._line(row, epochs, ("train", "val"))
        if len(line) > 80:
            looked = any(name.startswith("val_") for name in row)
            line = self._line(row, epochs, ("val",) if looked else ("train",))
        self._try("standard output", lambda: self._show(line))
        self.told = time.monotonic()

    def _write_rows(self) -> None:
        size = self.metrics.stat().st_size if self.metrics.exists() else 0
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(self.unwritten)
                file.flush()
                os.fsync(file.fileno())  # before the state that supersedes them
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.metrics, size)  # without the half of a line
            raise
        self.unwritten = ""

    def _show(self, line: str) -> None:
        if self.bar is not None and self.progress:
            self.bar.write(line)
        else:
            print(line, flush=True)

    def _try(self, what: str, write: Callable[[], object], kind: type[Exception] = OSError) -> None:
        try:
            write()
        except kind as error:  # wandb and trackio have errors of their own
            if what not in self.failed:
                self.failed.add(what)
                reason = getattr(error, "strerror", None) or error
                logger.warning("%s cannot be written (%s); training continues", what, reason)
            self.boards.pop(what, None)  # a writer does not recover

    def _line(self, row: dict[str, float], epochs: int, splits: Sequence[str]) -> str:
        parts = [f"epoch {row['epoch']}/{epochs}"]
        if "train_loss" in row:
            parts.append(f"loss {row['train_loss']:.3f}")
        if row.get("skipped"):
            parts.append(f"{row['skipped']} steps skipped")
        for name in (f"{split}_{name}" for split in splits for name in self.shown):
            if name in row:
                share = 0 <= row[name] <= 1  # as `Task.show` has it
                text = f"{100 * row[name]:.1f}%" if share else f"{row[name]:.4g}"
                parts.append(f"{name.replace('_', ' ')} {text}")
        return "  ".join([*parts, f"{row['clouds_per_second']:.0f} clouds/s"])

    def _rewind(self, epoch: int) -> int:
        """Drop the rows after an epoch; return the step of the last that is left."""
        # Lines after the epoch were written by a run that ended before it saved its state.
        kept = [row for row in read_log(self.metrics) if row["epoch"] <= epoch] if epoch else []
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return int(kept[-1]["step"]) if kept else 0

    def close(self) -> None:
        """Close the progress bar and the loggers."""
        if self.bar is not None:
            self.bar.close()
        if self.unwritten:
            self.failed.discard("metrics.jsonl")  # to be told once more
            self._try("metrics.jsonl", self._write_rows)
        for name, board in list(self.boards.items()):
            self._try(name, board.close, Exception)
        if self.lock is not None:
            self.lock.release()


def environment(device: torch.device) -> dict[str, Any]:
    """Describe what a run computes with: versions, device, threads, commit, command."""
    import numpy as np

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "gpu": gpu,
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        # Without units for it, train.amp has no effect and everything is computed in float32.
        "bfloat16": has_bfloat16(device),
    }


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
