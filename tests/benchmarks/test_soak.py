"""The soak: what it reads, a short one of the real parts, and leaks that it must find."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from benchmarks import soak
from benchmarks.soak import Finding, Reading, Taken, judge, quiet, take
from tests.markers import slow

WARM_UP = 2
QUIET_PARTS = {"train": lambda: None, "predict": lambda: None}


@pytest.fixture
def kept() -> Iterator[list[Any]]:
    """What a leak holds on to; closed and dropped afterwards."""
    found: list[Any] = []
    yield found
    for each in found:
        if hasattr(each, "close"):
            each.close()
    found.clear()


@pytest.fixture
def small_heap() -> Iterator[None]:
    """Collecting garbage and counting objects then takes no time, as those of before are left out."""
    gc.freeze()
    yield
    gc.unfreeze()


def findings_of(parts: dict[str, Callable[[], None]], cycles: int = WARM_UP + 2) -> dict[str, Finding]:
    with quiet():
        readings = soak.soak(parts, 0.0, cycles)
    assert len(readings) == cycles * len(parts)
    return {finding.name: finding for finding in judge(readings, WARM_UP)}


@slow
def test_the_library_keeps_nothing(tmp_path: Path) -> None:
    """Train, evaluate, save, load, predict, four times."""
    findings = findings_of(soak.Rounds(tmp_path).parts())
    assert [soak.verdict(finding) for finding in findings.values() if not finding.flat] == []
    assert findings["resident memory"].median > 100 * soak.MB


@pytest.mark.usefixtures("small_heap")
def test_a_list_that_grows_is_found(kept: list[Any]) -> None:
    """In its part, by what malloc has handed out; pages that it kept from before are resident already."""
    parts = {**QUIET_PARTS, "leak": lambda: kept.append(bytearray(os.urandom(64 << 20)))}
    finding = findings_of(parts)["memory handed out by malloc"]
    assert not finding.flat
    assert finding.growth["leak"] == pytest.approx(64 << 20, rel=0.05)
    assert abs(finding.growth["train"]) < 1 << 20 and abs(finding.growth["predict"]) < 1 << 20
    assert "memory handed out by malloc: NOT FLAT" in soak.verdict(finding)
    assert "leak +64.0" in soak.verdict(finding)


@pytest.mark.usefixtures("small_heap")
def test_small_objects_that_stay_are_found(kept: list[Any]) -> None:
    findings = findings_of({"leak": lambda: kept.append([[] for _ in range(30_000)]), **QUIET_PARTS})
    assert not findings["Python objects"].flat
    assert findings["Python objects"].growth["leak"] == pytest.approx(30_001, abs=100)
    assert abs(findings["Python objects"].growth["train"]) < 100


@pytest.mark.usefixtures("small_heap")
def test_a_file_left_open_is_found(tmp_path: Path, kept: list[Any]) -> None:
    def leak() -> None:
        file: IO[str] = open(tmp_path / "log.txt", "a")
        kept.append(file)

    findings = findings_of({**QUIET_PARTS, "leak": leak})
    handles = findings["open handles"]
    assert not handles.flat and handles.growth == {"train": 0, "predict": 0, "leak": 1}
    assert soak.verdict(handles).endswith("a round: train +0.00, predict +0.00, leak +1.00")
    assert findings["threads"].flat


@pytest.mark.usefixtures("small_heap")
def test_a_thread_left_running_is_found() -> None:
    stop, started, before = threading.Event(), [], len(os.listdir("/proc/self/task"))

    def leak() -> None:
        started.append(threading.Thread(target=stop.wait))
        started[-1].start()

    try:
        threads = findings_of({**QUIET_PARTS, "leak": leak})["threads"]
    finally:
        stop.set()
        for thread in started:
            thread.join()
        deadline = time.monotonic() + 10
        while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
            time.sleep(0.01)  # the system has a thread for a moment after it was joined
    assert not threads.flat and threads.growth["leak"] == 1


@pytest.mark.usefixtures("small_heap")
def test_reads_the_process(kept: list[Any]) -> None:
    before = take()
    kept.append(bytearray(os.urandom(16 << 20)))
    after = take()
    assert after.resident - before.resident >= 15 << 20 or before.kept >= 16 << 20
    assert abs(after.used - before.used - (16 << 20)) < 1 << 20
    assert before.handles == after.handles >= 3
    assert before.threads == len(os.listdir("/proc/self/task"))


def rounds(*values: int) -> list[Reading]:
    """Rounds of one part, with so much memory and so many handles at their ends."""
    return [
        Reading(float(cycle), cycle, "all", Taken(value, 100, 5, value, 1, 10))
        for cycle, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "memory", "handles"),
    [
        ((1000, 1000, 1000, 1000, 1000), True, True),
        ((10, 500, 1000, 1000, 1000), True, True),  # what comes in the warm-up does not count
        ((1000, 1000, 981, 1000, 1019), True, False),
        ((1000, 1000, 1000, 1000, 1021), False, False),
        ((1000, 1000, 979, 1000, 1000), False, False),
    ],
)
def test_two_percent_after_the_warm_up(values: tuple[int, ...], memory: bool, handles: bool) -> None:
    findings = {finding.name: finding for finding in judge(rounds(*values), WARM_UP)}
    assert findings["resident memory"].flat == memory
    assert findings["open handles"].flat == handles
    assert findings["memory handed out by malloc"].flat


def test_table_is_even_and_narrow() -> None:
    lines = soak.table(rounds(*range(1 << 20, (1 << 20) + 200))).splitlines()
    assert len(lines) == 2 + soak.ROWS and max(map(len, lines)) <= 80
    assert [lines[row].split("|")[2].strip() for row in (2, -1)] == ["1", "200"]


@pytest.mark.usefixtures("small_heap")
@pytest.mark.parametrize("leaks", [False, True])
def test_command(
    leaks: bool,
    tmp_path: Path,
    kept: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Parts(soak.Rounds):
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def parts(self) -> dict[str, Callable[[], None]]:
            leak = (lambda: kept.append(open(tmp_path / "x", "a"))) if leaks else lambda: None
            return {"train": lambda: None, "predict": leak}

    monkeypatch.setattr(soak, "Rounds", Parts)
    monkeypatch.setattr("sys.argv", ["soak", "--minutes", "0.01", "--out", str(tmp_path / "soak.md")])
    if leaks:
        with pytest.raises(SystemExit, match="error: not everything was flat"):
            soak.main()
    else:
        soak.main()
    said = capsys.readouterr().out
    assert said.rstrip("\n") == (tmp_path / "soak.md").read_text().rstrip("\n")
    assert ("open handles: NOT FLAT" in said) == leaks and "threads: flat, " in said
    assert "predict +1.00" in said or not leaks
    assert max(map(len, said.splitlines()[:-5])) <= 86


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "long"])
def test_minutes(text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["soak", "--minutes", text])
    with pytest.raises(SystemExit):
        soak.main()
    assert f"argument --minutes: expected minutes, more than 0, got '{text}'" in capsys.readouterr().err
