"""README and site: every link leads somewhere, every Python block runs, every command's options exist.

Shell blocks marked `sh` are run, with small data and one epoch. Commands in `text` blocks need what is not
here: of them the options are read.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from bixt3d.cli import parser_of
from bixt3d.datasets.synthetic.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = ["train.epochs=1"]  # of every training, so that it takes seconds


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def lines_of(page: Path, kind: str, start: str) -> list[list[str]]:
    lines = "".join(blocks(page, kind)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}"


def test_scores_of_readme_are_those_of_their_pages() -> None:
    """A mean and its deviation stand, perhaps with more digits, on the page that their line leads to."""
    pair = re.compile(r"(\d+\.\d+) ± (\d+\.\d+)")
    seen = 0
    for line in PAGES[0].read_text().splitlines():
        told = [
            pair.findall((ROOT / page).read_text()) for page in re.findall(r"\((results/\S+\.md)\)", line)
        ]
        for shown in pair.findall(line):
            digits = [len(number.partition(".")[2]) for number in shown]
            rounded = {
                tuple(f"{float(v):.{d}f}" for v, d in zip(one, digits, strict=True)) for one in sum(told, [])
            }
            assert shown in rounded, f"{shown} of {line}"
            seen += 1
    assert seen >= 3


def test_every_page_is_in_the_menu() -> None:
    def listed(entries: object) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        values = entries.values() if isinstance(entries, dict) else entries
        return [name for value in values for name in listed(value)]  # type: ignore[union-attr]

    menu = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(f"docs/{name}" for name in menu) == sorted(map(name_of, PAGES[1:]))


def test_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 250


@pytest.mark.parametrize("line", lines_of(PAGES[0], "text", "make "), ids=" ".join)
def test_make_knows_its_jobs(line: list[str]) -> None:
    done = subprocess.run(["make", "-n", *line[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic shapes as after `bixt3d data make`, and FOLDER with meshes of a user's own."""
    place = tmp_path_factory.mktemp("docs")
    write_shapes(place / "data", per_class=10, num_points=1024, progress=False)
    for split, copies in (("train", 3), ("test", 1)):
        for mesh in (place / "data/shapes/meshes/test").glob("*/*.off"):
            own = place / "FOLDER" / split / mesh.parent.name
            own.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                shutil.copy(mesh, own / f"{copy}_{mesh.name}")
    return place


def run(arguments: list[str], folder: Path) -> None:
    # of 10 shapes a class, instead of 100, the last is number 9
    words = [re.sub(r"_009\d\.off", "_0009.off", word) for word in arguments]
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "(?:sh|python)")], ids=name_of)
def test_blocks_run(page: Path, folder: Path) -> None:
    shutil.rmtree(folder / "runs", ignore_errors=True)  # pages reuse the names of runs
    for _, *words in lines_of(page, "sh", "bixt3d "):
        if words[0] == "train":
            words += [*([] if "--set" in words else ["--set"]), *SMALL]
        elif words[:2] == ["data", "make"]:
            words = ["data", "make", "--root", "made", "--per-class", "10", "--num-points", "64"]
        run(["-m", "bixt3d", *words], folder)
    if python := "\n".join(blocks(page, "python")):
        run(["-c", python], folder)


@pytest.mark.parametrize("page", [page for page in PAGES if lines_of(page, "text", "bixt3d ")], ids=name_of)
def test_commands_are_known(page: Path) -> None:
    for _, *words in lines_of(page, "text", "bixt3d "):
        verb = import_module("bixt3d.commands")
        while hasattr(verb, "COMMANDS"):
            assert words[0] in verb.COMMANDS, words
            verb = import_module(f"{verb.__name__}.{words.pop(0).replace('-', '_')}")
        parser_of(verb, "bixt3d").parse_args(words)


@pytest.mark.slow
def test_site_builds_and_loads_nothing_from_a_network() -> None:
    program = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [program, "build", "--config-file", "mkdocs.yml", "--clean"], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0 and b"No issues found" in done.stdout + done.stderr, done.stdout + done.stderr
    pages = list((ROOT / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1
    for page in pages:
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text())
        assert [url for url in loaded if "canonical" not in url] == [], page


@pytest.mark.slow
@pytest.mark.training
def test_a_model_of_ones_own_with_files_of_ones_own(folder: Path) -> None:
    """The page's code as a plug-in and its YAML as a config, by its commands."""
    page = ROOT / "docs/tutorials/own-model.md"
    (folder / "maxnet.py").write_text(blocks(page, "python")[0])
    (folder / "maxnet.yaml").write_text(blocks(page, "yaml")[0])
    for _, *words in lines_of(page, "text", "bixt3d "):
        run(["-m", "bixt3d", *words, *(SMALL if words[0] == "train" else [])], folder)
