from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bixt3d.datasets.room import VARIABLE, room


@pytest.mark.parametrize(
    ("stated", "size"),
    [("0", 0), ("1000", 1000), ("500M", 500 * 2**20), ("1.5 GiB", 3 * 2**29), ("2tb", 2**41), (" 4k ", 4096)],
)
def test_stated(stated: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, stated)
    assert room() == size


@pytest.mark.parametrize("stated", ["much", "-1", "4 GG", "G"])
def test_no_size_is_refused(stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, stated)
    with pytest.raises(ValueError, match=rf"{VARIABLE}: expected bytes, such as 500M or 4G, got '{stated}'"):
        room()


def test_a_quarter_of_what_is_free_is_shared_by_the_processes_of_a_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("bixt3d.datasets.room._of_machine", lambda: 4000)
    assert room() == 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert room() == 125
    monkeypatch.setattr("bixt3d.datasets.room._of_group", lambda: 1600)  # a job that may take less
    assert room() == 50


def test_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "0::/job/step\n",
        "/sys/fs/cgroup/job/step/memory.max": "max\n",
        "/sys/fs/cgroup/job/memory.max": "1000\n",
        "/sys/fs/cgroup/job/memory.current": "700\n",
        "/sys/fs/cgroup/job/memory.stat": "anon 100\ninactive_file 500\n",
    }
    monkeypatch.setattr("bixt3d.datasets.room._read", lambda path: files.get(Path(path).as_posix(), ""))
    from bixt3d.datasets.room import _of_group

    assert _of_group() == 800
    files["/proc/self/cgroup"] = "3:memory:/job\n4:cpu:/\n"
    base = "/sys/fs/cgroup/memory/job/memory"
    files |= {f"{base}.limit_in_bytes": "600", f"{base}.usage_in_bytes": "200"}
    assert _of_group() == 400


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_limits_of_the_process() -> None:
    program = (
        "import resource\n"
        "from bixt3d.datasets.room import room\n"
        "before = room()\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 29, 1 << 29))\n"
        "print(before, room())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 0 < after < 2**27 and after < before
