"""What the code imports is declared in `pyproject.toml`, and pinned to what the lock files hold."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("serve", "deployments", "adapters")
WITHOUT_A_LINE = {"torch"}
"""`pyproject.toml` says why."""


def declared() -> dict[str, str]:
    """Version by distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found = [re.fullmatch(r"([a-z0-9-]+)(?:\[\w+\])?==(\S+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def imported() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.module or ""


def test_every_import_is_of_a_declared_dependency() -> None:
    ours = {*PACKAGES, *sys.stdlib_module_names}
    modules = {name.partition(".")[0] for name in imported()} - ours - WITHOUT_A_LINE
    providers = packages_distributions()
    assert {name for name in modules if not declared().keys() & map(_normal, providers.get(name, []))} == set()


def _normal(distribution: str) -> str:
    """As `pyproject.toml` has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_the_lock_files_hold_the_declared_versions(lock: str) -> None:
    text = (ROOT / "cluster" / "requirements" / f"{lock}.txt").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==([^ ;]+)", text, re.MULTILINE))
    both = declared().keys() & locked.keys()
    assert len(both) == len(declared()) - 1  # the other device's vLLM
    assert {name: locked[name] for name in both} == {name: declared()[name] for name in both}
