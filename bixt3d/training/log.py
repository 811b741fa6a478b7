"""What a run writes down: settings, environment, one line of metrics an epoch, a progress bar."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bixt3d.config import Config


class RunLog:
    """The folder of a run and its progress bar; only the first process of several writes.

    Args:
        run_dir: The folder.
        config: The settings, written to ``config.yaml``.
        resume: Whether the run goes on.
        active: Whether this process writes at all.
        progress: Show a progress bar.

    Raises:
        FileExistsError: If the folder holds a run already and ``resume`` is not set.
    """

    def __init__(
        self, run_dir: Path, config: Config, resume: bool, active: bool = True, progress: bool = True
    ) -> None:
        """Make the folder and write what does not change."""
        self.run_dir, self.active, self.progress = run_dir, active, progress
        self.bar: Any = None
        self.board: Any = None
        self.metrics = run_dir / "metrics.jsonl"
        if not active:
            return
        if not resume and (run_dir / "resume.pt").exists():
            raise FileExistsError(
                f"{run_dir} holds a run already: go on with it by --resume, or choose another folder with "
                "--set run.dir=FOLDER"
            )
        run_dir.mkdir(parents=True, exist_ok=True)
        from omegaconf import OmegaConf

        OmegaConf.save(OmegaConf.structured(config), run_dir / "config.yaml")
        (run_dir / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")
        if not resume:
            self.metrics.unlink(missing_ok=True)
        if config.run.tensorboard:
            self.board = _tensorboard(run_dir)

    def start(self, done: int, total: int) -> None:
        """Open the progress bar at step ``done`` of ``total``."""
        if self.active:
            from tqdm import tqdm

            self.bar = tqdm(
                initial=done, total=total, unit="step", disable=not self.progress, dynamic_ncols=True
            )

    def tick(self) -> None:
        """Count one step."""
        if self.bar is not None:
            self.bar.update()

    def row(self, row: dict[str, float], epochs: int) -> None:
        """Write the metrics of an epoch, and show the main ones."""
        if not self.active:
            return
        with open(self.metrics, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self.board.add_scalar(name, value, row["step"])
        parts = [f"epoch {row['epoch']}/{epochs}", f"loss {row['train_loss']:.3f}"]
        parts += [
            f"{name.replace('_', ' ')} {100 * value:.1f}%"
            for name, value in row.items()
            if name.startswith(("train_", "val_")) and not name.endswith("loss")
        ]
        line = "  ".join([*parts, f"{row['clouds_per_second']:.0f} clouds/s"])
        if self.bar is not None and self.progress:
            self.bar.write(line)
        else:
            print(line, flush=True)

    def rewind(self, epoch: int) -> None:
        """Drop lines of epochs after ``epoch``, written by a run that ended before it saved them."""
        if not self.active or not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line that was cut off
            if row["epoch"] <= epoch:
                kept.append(line + "\n")
        self.metrics.write_text("".join(kept))

    def close(self) -> None:
        """Close the progress bar and the event file."""
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()


def environment() -> dict[str, Any]:
    """Describe what a run computes with: versions, device, threads, commit, command."""
    import numpy as np

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
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
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _tensorboard(run_dir: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir / "tensorboard"))
