"""Progress: nothing for work that is done at once, lines where no terminal is, a bar on one."""

from __future__ import annotations

import pytest

from bixt3d import progress as module
from bixt3d.progress import progress


class Clock:
    """A clock that each step moves on."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_work_done_at_once_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("ordering", 10) as done:
        for _ in range(10):
            clock.now += 0.15
            done(1)
    assert capsys.readouterr().err == ""


def test_lines_come_ever_less_often(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("ordering", 2000, "shapes") as done:
        for _ in range(1000):
            clock.now += 0.5
            done(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ordering: 10 of 2,000 shapes, 498 s left"
    first = [int(line.split()[1]) for line in lines if "," not in line.split()[1]]
    assert first[:4] == [10, 22, 46, 94] and 10 < len(lines) < 20
    assert "2,000 of" not in lines[-1]


def test_a_terminal_gets_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    class Bar:
        start_t = 0.0

        def __init__(self, **options: object) -> None:
            self.options, self.count, self.closed = options, 0, False
            bars.append(self)

        def update(self, count: int) -> None:
            self.count += count

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr("tqdm.tqdm", Bar)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with pytest.raises(KeyError), progress("evaluating", 100) as done:
        for _ in range(50):
            clock.now += 0.3
            done(2)
        raise KeyError
    (bar,) = bars
    assert bar.options["desc"] == "evaluating" and bar.count == 100 and bar.closed
    assert bar.start_t == pytest.approx(-1.2)  # the time before the bar counts
