"""pyproject.toml, environment.yml and constraints.txt name the same packages in the same ranges."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {
    "torch": "pytorch",
    "torch-cluster": "pytorch_cluster",
    "mapbox-earcut": "mapbox_earcut",
}  # PyPI name -> conda-forge name
CONDA_EXTRAS = ("plots", "viewer", "cluster")
CONDA_ONLY = {"python", "pip", "pytorch3d"}


def conda_entries() -> tuple[dict[str, SpecifierSet], list[str]]:
    """environment.yml as {name: range}, and what pip adds."""
    ranges, pip = {}, []
    for entry in yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]:
        if isinstance(entry, dict):
            pip += entry["pip"]
        else:
            name, _, specifiers = entry.partition(" ")
            assert name not in ranges, f"{name} is listed twice"
            ranges[name] = SpecifierSet(specifiers)
    return ranges, pip


def requirements(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("requirement", requirements(*CONDA_EXTRAS), ids=lambda requirement: requirement.name)
def test_conda_range_is_the_range_of_pyproject(requirement: Requirement) -> None:
    ranges, _ = conda_entries()
    name = "open3d" if requirement.name == "open3d-cpu" else requirement.name
    assert ranges[CONDA_NAMES.get(name, name)] == requirement.specifier


def test_conda_list_is_complete_and_has_nothing_else() -> None:
    ranges, pip = conda_entries()
    promised = {"pytorch", "pytorch3d", "pytorch_cluster", "h5py", "trimesh", "open3d", "tqdm"}
    expected = {CONDA_NAMES.get(r.name, r.name) for r in requirements(*CONDA_EXTRAS)} - {"open3d-cpu"}
    assert promised <= set(ranges)
    assert set(ranges) == expected | CONDA_ONLY
    assert pip == ["-e ."]


def test_conda_python_is_the_python_of_pyproject() -> None:
    assert conda_entries()[0]["python"] == SpecifierSet(PROJECT["requires-python"])


def test_pytorch3d_is_for_conda_only() -> None:
    assert "pytorch3d" not in {r.name for r in requirements(*EXTRAS)}
    assert conda_entries()[0]["pytorch3d"].contains("0.7.9")


def test_viewer_has_one_open3d_per_platform() -> None:
    wanted = {
        ("linux", "x86_64"): ["open3d-cpu"],
        ("linux", "aarch64"): ["open3d"],
        ("darwin", "x86_64"): ["open3d"],
        ("darwin", "arm64"): ["open3d"],
        ("win32", "AMD64"): ["open3d"],
    }
    for (system, machine), names in wanted.items():
        platform = {"sys_platform": system, "platform_machine": machine}
        of_open3d = [Requirement(line) for line in EXTRAS["viewer"] if line.startswith("open3d")]
        chosen = [r.name for r in of_open3d if r.marker.evaluate(platform)]
        assert chosen == names, platform


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=lambda requirement: requirement.name)
def test_range_has_a_lower_and_an_upper_end(requirement: Requirement) -> None:
    ends = {specifier.operator: Version(specifier.version) for specifier in requirement.specifier}
    assert set(ends) == {">=", "<"}
    assert ends[">="] < ends["<"]
    assert ends["<"].release == (ends["<"].major,), "the upper end is a major version"


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=lambda requirement: requirement.name)
def test_dependency_says_why_it_is_there(requirement: Requirement) -> None:
    lines = [
        line for line in PYPROJECT.splitlines() if re.match(rf'\s+"{requirement.name}(\[[^\]]+\])?[>]', line)
    ]
    assert lines, f"{requirement.name} has no line of its own"
    assert all(re.search(r",\s+# \w", line) for line in lines)


def test_torch_is_pinned_inside_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (pin,) = [Requirement(line) for line in lines if line and not line.startswith("#")]
    (torch,) = [r for r in requirements() if r.name == "torch"]
    (exact,) = pin.specifier
    assert (pin.name, exact.operator) == ("torch", "==")
    assert Version(exact.version).local is None, "a local version exists on one index only"
    assert torch.specifier.contains(exact.version)
    assert torch.specifier.contains("2.11.0")


def test_no_package_is_asked_for_in_two_ranges() -> None:
    ranges: dict[str, set[str]] = {}
    for requirement in requirements(*EXTRAS):
        ranges.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name for name, found in ranges.items() if len(found) > 1} == set()
