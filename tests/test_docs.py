"""The site: every link leads somewhere, every Python block runs, every command's options exist.

Shell blocks marked `sh` are run; commands in `text` blocks need what is not here, so their options alone are read.
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
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SMALL = {"data.num_points=64", "train.epochs=1"}  # every training of a page, so that it takes seconds


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}"


def test_every_page_is_in_the_menu() -> None:
    def listed(entries: object) -> list[str]:
        if isinstance(entries, str):
            return [entries]
        values = entries.values() if isinstance(entries, dict) else entries
        return [name for value in values for name in listed(value)]  # type: ignore[union-attr]

    menu = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(menu) == [name_of(page) for page in PAGES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic shapes as after `bixt3d data make`, and FOLDER with meshes of a user's own."""
    place = tmp_path_factory.mktemp("docs")
    write_shapes(place / "data", per_class=10, num_points=256, progress=False)
    for split, copies in (("train", 3), ("test", 1)):
        for mesh in (place / "data/shapes/meshes/test").glob("*/*.off"):
            own = place / "FOLDER" / split / mesh.parent.name
            own.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                shutil.copy(mesh, own / f"{copy}_{mesh.name}")
    return place


def run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


def commands(page: Path, kind: str) -> list[list[str]]:
    lines = "".join(blocks(page, kind)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("bixt3d ")]
    return [line[1:] for line in words]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "(?:sh|python)")], ids=name_of)
def test_blocks_run(page: Path, folder: Path) -> None:
    for words in commands(page, "sh"):
        settings = sorted(SMALL) if words[0] == "train" else []
        run(
            ["-m", "bixt3d", *words, *(["--set"] if settings and "--set" not in words else []), *settings],
            folder,
        )
    if python := "\n".join(blocks(page, "python")):
        run(["-c", python], folder)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page, "text")], ids=name_of)
def test_commands_are_known(page: Path) -> None:
    for words in commands(page, "text"):
        verb = import_module("bixt3d.commands")
        while hasattr(verb, "COMMANDS"):
            assert words[0] in verb.COMMANDS, words
            verb = import_module(f"{verb.__name__}.{words.pop(0)}")
        parser_of(verb, "bixt3d").parse_args(words)
