"""pyproject.toml, the lock and the conda file say the same."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "envs/dvfl.yaml").read_text())
LOCK = [Requirement(line) for line in (ROOT / "envs/requirements.txt").read_text().splitlines() if line[:1] != "#"]
PINNED = {canonicalize_name(each.name): each for each in LOCK}
BESIDE = {"dashboard"}  # a page to look at a study with, which `make` does not install
EXTRAS = [extra for name, extra in PROJECT["optional-dependencies"].items() if name not in BESIDE]
ASKED = [Requirement(each) for each in (*PROJECT["dependencies"], *chain.from_iterable(EXTRAS))]


def pinned(name: str) -> str:
    (specifier,) = PINNED[canonicalize_name(name)].specifier
    return specifier.version


def test_the_lock_pins_each_package_once_and_exactly():
    assert len(PINNED) == len(LOCK) > 100
    assert [str(each) for each in LOCK if not re.fullmatch(r"==[^*,]+", str(each.specifier))] == []


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_pyproject_asks_for_is_in_the_lock_within_its_range(asked):
    assert asked.specifier.contains(pinned(asked.name), prereleases=True)


def test_the_lock_is_complete():
    """Whatever an installed package of it needs is pinned in it, at a version that is allowed."""
    missing = []
    for name in PINNED:
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                there = canonicalize_name(needed.name) in PINNED
                if not there or not needed.specifier.contains(pinned(needed.name), prereleases=True):
                    missing.append(f"{name} needs {needed}")
    assert missing == []


def test_conda_installs_the_same_lock_on_a_python_that_pyproject_allows():
    (pip,) = [each["pip"] for each in CONDA["dependencies"] if isinstance(each, dict)]
    assert pip == ["--requirement requirements.txt", "--editable .."]
    (python,) = [each for each in CONDA["dependencies"] if str(each).startswith("python ")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.removeprefix("python ="))


def test_no_import_comes_from_a_package_that_is_not_asked_for():
    """What dvfl imports is named in pyproject.toml, not left to what others happen to need."""
    names = {canonicalize_name(each.name) for each in ASKED} | {"dvfl", "setuptools"}
    owners = packages_distributions()
    imported = {
        module
        for file in (ROOT / "dvfl").rglob("*.py")
        for module in re.findall(r"^ *(?:from|import) +(\w+)", file.read_text(), flags=re.M)
    }
    foreign = {module for module in imported if module in owners}
    assert {module for module in foreign if not names & {canonicalize_name(each) for each in owners[module]}} == set()
