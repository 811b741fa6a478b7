from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bixt3d import cli
from bixt3d.datasets.acquire import SOURCES, Source
from bixt3d.datasets.modelnet40 import HDF5_FOLDER
from bixt3d.datasets.synthetic.shapes import CATEGORIES
from tests.tools.conftest import TOOLS, Outcome, Workplace

NO_NETWORK = {
    name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
}


def run(folder: Path, *arguments: str | Path, **environment: str) -> Outcome:
    """Runs the program itself in a folder, cut off from every network."""
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, str(TOOLS / "prepare_data.py"), *map(str, arguments)],
        cwd=folder,
        env={**kept, **NO_NETWORK, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def archive(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made shapes, which come in ModelNet40's layout, as an archive."""
    base = tmp_path_factory.mktemp("archive") / HDF5_FOLDER
    shapes = workplace.folder / "data" / "shapes"
    return Path(shutil.make_archive(str(base), "zip", shapes, HDF5_FOLDER))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site(archive: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


Program = Callable[..., Outcome]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs the command in this process, with a table of data sets of its own."""
    monkeypatch.chdir(tmp_path)

    def called(sources: dict[str, Source], *arguments: str) -> Outcome:
        code: int | str | None = 0
        said = ""
        try:
            monkeypatch.setattr("bixt3d.datasets.acquire.SOURCES", sources)
            cli.main(["data", "get", *arguments], prog="prepare_data.py")
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                code, said = 1, f"{code}\n"
        seen = capsys.readouterr()
        return Outcome(int(code or 0), seen.out, seen.err + said)

    return called


def made_source(*mirrors: str, **changes: Any) -> dict[str, Source]:
    """The made shapes as a published data set: 80 train and 20 test shapes of 256 points, 10 classes."""
    source = Source(
        "modelnet40",
        HDF5_FOLDER,
        "shape_names.txt",
        dict.fromkeys(mirrors),
        unpacked_bytes=10**6,
        shapes={"train": 80, "test": 20},
        classes=len(CATEGORIES),
        points=256,
    )
    return {"made": replace(source, **changes)}


def test_help_is_short_and_honest(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcome = program(SOURCES, "--help").succeeded()
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert all(name in outcome.out for name in SOURCES)
    assert "None\nof them could be reached" in outcome.out


@pytest.mark.parametrize("name", SOURCES)
def test_no_network_is_one_message_with_every_place(
    program: Program, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("no_proxy")
    for variable, nowhere in NO_NETWORK.items():
        monkeypatch.setenv(variable, nowhere)
    outcome = program(SOURCES, name)
    outcome.refused(f"{name} could not be downloaded")
    assert outcome.code == 1 and outcome.out == ""
    for mirror in SOURCES[name].mirrors:
        assert outcome.err.count(mirror) == 1
    for place in SOURCES[name].by_hand:
        assert place in outcome.err
    assert outcome.err.count("no connection, or it broke: Connection refused") == len(SOURCES[name].mirrors)
    assert outcome.err.endswith(f"bixt3d data get {name} --root data --from-file ARCHIVE\n")
    assert list(Path("data").iterdir()) == []


def test_download_then_nothing_to_do_then_verify(program: Program, site: str, archive: Path) -> None:
    checksum = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    sources = made_source(mirrors={f"{site}/gone.zip": None, f"{site}/{archive.name}": checksum})
    first = program(sources, "made").succeeded()
    assert first.out.splitlines()[0] == f"data/{HDF5_FOLDER}: whole"
    assert "80 shapes, 256 points, xyz\n" in first.out and "10 classes" in first.out
    assert program(sources, "made").succeeded().out == first.out
    checked = program(sources, "made", "--verify").succeeded()
    assert checked.out.startswith(first.out) and "Every listed file was read." in checked.out


def test_mirror_option(program: Program, site: str, archive: Path) -> None:
    outcome = program(made_source(), "made", "--mirror", f"{site}/gone.zip")
    outcome.refused("could not be downloaded")
    assert "404 File not found" in outcome.err
    program(made_source(), "made", "--mirror", f"{site}/{archive.name}", "--root", "there").succeeded()
    assert Path("there", HDF5_FOLDER, "shape_names.txt").is_file()


def test_from_file_verify_and_force(program: Program, archive: Path) -> None:
    sources = made_source(points=2048, shapes={"train": 81, "test": 20})
    outcome = program(sources, "made", "--from-file", str(archive)).succeeded()
    assert outcome.out.splitlines()[0].endswith("usable, but not quite the official release")
    assert "warning: 256 points a train shape, officially 2,048\n" in outcome.out
    assert "warning: 80 train shapes, officially 81\n" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    file = next(Path("data", HDF5_FOLDER).glob("ply_data_test*.h5"))
    file.write_bytes(file.read_bytes()[:2000])
    for arguments in (["--verify"], [], ["--from-file", str(archive)]):
        outcome = program(sources, "made", *arguments)
        outcome.refused(file.name, "not a whole HDF5 file")
        assert outcome.code == 1
    program(sources, "made", "--from-file", str(archive), "--force").succeeded()
    program(sources, "made", "--verify").succeeded()


def test_another_data_set_is_not_taken_for_it(tmp_path: Path, archive: Path) -> None:
    outcome = run(tmp_path, "modelnet40", "--from-file", archive)
    outcome.refused(f"{archive.name}: this is not modelnet40: expected 40 classes, got 10")
    assert list((tmp_path / "data").iterdir()) == []


def test_mistakes_of_the_user(program: Program, tmp_path: Path) -> None:
    sources = made_source()
    program(sources, "made", "--verify").refused(f"no data set {HDF5_FOLDER}")
    program(sources, "made", "--from-file", "gone.zip").refused("no file or folder", "gone.zip")
    (tmp_path / "page.zip").write_text("<html>")
    program(sources, "made", "--from-file", "page.zip").refused("page.zip: not a whole zip or tar archive")
    program(sources, "made", "--mirror", "a.zip").refused("expected an address with http")
    for arguments, words in (
        (["other"], "invalid choice: 'other'"),
        (["made", "--verify", "--force"], "--verify only checks"),
        (["made", "--from-file", "a", "--mirror", "b"], "not both"),
        (["made", "--timeout", "0"], "--timeout: expected seconds above 0, got 0"),
    ):
        outcome = program(sources, *arguments)
        assert outcome.code == 2 and words in outcome.err
    assert not Path("data").exists() or list(Path("data").iterdir()) == []


def test_control_c(program: Program, site: str, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bixt3d.datasets.acquire.unpack", interrupted)
    outcome = program(made_source(f"{site}/{archive.name}"), "made")
    assert outcome.code == 130 and "what was downloaded is kept for the next run" in outcome.err
