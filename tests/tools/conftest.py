"""One tiny data set, and one model trained on it the way a user does, for all tests of the tools."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bixt3d.datasets.synthetic.shapes import write_shapes

TOOLS = Path(__file__).resolve().parents[2] / "tools"

CONFIG = """
data:
  name: shapes
  num_points: 48
  order: fps
augment:
  shuffle: false
model:
  name: bixt_ti_cls
  args: {dim: 12, depth: 2, num_heads: 2, num_latents: 4, coord_scale: 6.0, drop_path: 0.0}
optim:
  lr: 1.0e-2
  warmup_epochs: 1
train:
  epochs: 3
  batch_size: 14
  ema_decay: 0.5
run:
  tensorboard: false
"""


@dataclass(frozen=True)
class Outcome:
    """How a program ended and what it said."""

    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """It ended with one error message that holds these words, and no traceback."""
        assert self.code not in (0, None), self.out
        assert "Traceback" not in self.err, self.err
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        for word in words:
            assert word in errors[0], self.err

    def succeeded(self) -> Outcome:
        """It ended well; returns itself."""
        assert self.code == 0, self.err
        assert "Traceback" not in self.err, self.err
        return self


@dataclass(frozen=True)
class Workplace:
    """A folder with a config, data and runs, and the programs to use in it."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def meshes(self) -> list[Path]:
        return sorted((self.folder / "data/shapes/meshes/test").rglob("*.off"))

    def command(self, tool: str, *arguments: str | Path) -> list[str]:
        return [sys.executable, str(TOOLS / f"{tool}.py"), *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
        return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}

    def run(self, tool: str, *arguments: str | Path, command: list[str] | None = None) -> Outcome:
        """Run a tool in the folder, as from a shell."""
        done = subprocess.run(
            command or self.command(tool, *arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Outcome(done.returncode, done.stdout, re.sub(r".*\r", "", done.stderr))

    def train(self, run: str, *settings: str, resume: bool = False) -> Outcome:
        """Run tools/train_cls.py with the tiny config into runs/<run>."""
        flags = ["--resume"] if resume else []
        wanted = [f"run.dir=runs/{run}", f"data.root={self.folder / 'data'}", *settings]
        return self.run("train_cls", "--cfg", self.config, *flags, "--set", *wanted)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("workplace")
    write_shapes(folder / "data", per_class=10, num_points=256, progress=False)
    (folder / "tiny.yaml").write_text(CONFIG)
    return Workplace(folder)


@dataclass(frozen=True)
class Trained:
    """A finished run, and what its training said."""

    run_dir: Path
    outcome: Outcome


@pytest.fixture(scope="session")
def trained(workplace: Workplace) -> Trained:
    outcome = workplace.train("trained").succeeded()
    return Trained(workplace.folder / "runs" / "trained", outcome)
