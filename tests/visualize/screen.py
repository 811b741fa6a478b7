"""A screen without a monitor, and a program whose window is on it: keys go in, lines come out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 120.0  # seconds: a slow machine with one core; a failure shows what came until then


class Screened:
    """A running program whose window is on a screen of its own."""

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self.process, self.environment = process, environment
        self.lines: list[str] = []
        self._read = 0
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in iter(self.process.stdout.readline, ""))

    def wait_for(self, text: str) -> str:
        """The next line that holds a text, of those that came after the one before."""
        end = time.monotonic() + PATIENCE
        while True:
            ended = self.process.poll() is not None
            for place in range(self._read, len(self.lines)):
                if text in self.lines[place]:
                    self._read = place + 1
                    return self.lines[place]
            assert not ended and time.monotonic() < end, f"no {text!r} in\n" + "\n".join(self.lines)
            time.sleep(0.05)

    def xdotool(self, *arguments: str) -> str:
        command = ["xdotool", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout.strip()

    def window(self, title: str) -> str:
        """The number of the window with this in its title."""
        end = time.monotonic() + PATIENCE
        while not (found := self.xdotool("search", "--name", title)):
            assert time.monotonic() < end, f"no window {title!r}"
            time.sleep(0.2)
        return found.splitlines()[0]

    def press(self, window: str, key: str, answer: str) -> str:
        """Press a key, and wait for a line with the answer."""
        self.xdotool("key", "--window", window, key)
        return self.wait_for(answer)

    def end(self) -> int:
        """Wait until the program has ended; its exit status."""
        status = self.process.wait(timeout=PATIENCE)
        self._reader.join(timeout=PATIENCE)
        return status


@contextmanager
def screened(command: Sequence[str | Path], folder: Path) -> Iterator[Screened]:
    """Run a program in a folder, on a new X server with a free number; both end with the block."""
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    program: subprocess.Popen[str] | None = None
    try:
        assert server.stdout is not None
        number = server.stdout.readline().strip()  # empty if it ended without starting
        assert number, "Xvfb did not start"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WAYLAND")}
        environment |= {"DISPLAY": f":{number}", "LIBGL_ALWAYS_SOFTWARE": "1", "OMP_NUM_THREADS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "XDG_SESSION_TYPE": "x11"}
        program = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        yield Screened(program, environment)
    finally:
        for process in (program, server):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.wait(timeout=PATIENCE)
