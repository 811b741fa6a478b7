"""How programs end."""

from __future__ import annotations

from pathlib import Path

import pytest

from bixt3d.training.command import RESUMABLE, one_line_errors


@pytest.mark.parametrize(("arguments", "said"), [((), "\nstopped"), ((RESUMABLE,), f"\n{RESUMABLE}")])
def test_interrupt(arguments: tuple[str, ...], said: str) -> None:
    """Only a training can be gone on with."""
    with pytest.raises(SystemExit) as end, one_line_errors(*arguments):
        raise KeyboardInterrupt
    assert end.value.code == said


def test_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit) as end, one_line_errors():
        (tmp_path / "taken").mkdir(exist_ok=True)
    assert end.value.code == f"error: {tmp_path / 'taken'} is a file, no folder"


def test_run_that_is_there_already_says_so_itself() -> None:
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise FileExistsError("runs/x holds a run already")
    assert end.value.code == "error: runs/x holds a run already"
