"""How programs end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bixt3d.training.command import RESUMABLE, one_line_errors
from bixt3d.training.stop import Stopped


@pytest.mark.parametrize(
    ("error", "stopped", "said", "code"),
    [
        (KeyboardInterrupt(), (), "stopped", 130),
        (KeyboardInterrupt(), (RESUMABLE,), RESUMABLE, 130),
        (Stopped(signal.SIGTERM, "the state is saved"), (RESUMABLE,), "the state is saved", 143),
    ],
)
def test_interrupt(
    error: BaseException, stopped: tuple[str, ...], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a training can be gone on with; the code is what a shell gives the signal."""
    with pytest.raises(SystemExit) as end, one_line_errors(*stopped):
        raise error
    assert end.value.code == code
    assert capsys.readouterr().err == f"\n{said}\n"


def test_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit) as end, one_line_errors():
        (tmp_path / "taken").mkdir(exist_ok=True)
    assert end.value.code == f"error: {tmp_path / 'taken'} is a file, no folder"


def test_run_that_is_there_already_says_so_itself() -> None:
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise FileExistsError("runs/x holds a run already")
    assert end.value.code == "error: runs/x holds a run already"
