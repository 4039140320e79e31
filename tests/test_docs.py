"""The documentation agrees with itself and with the code."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from serve import errors
from serve.api.endpoints import ENDPOINTS
from serve.config import Settings, load_args, load_file
from serve.mlops import metrics
from tests.documentation import PAGES, ROOT, name, prose, snippets

OURS = ("serve", "deployments", "adapters", "cluster", "tests", "bench", "docs")

# What runs leave behind.
MADE = ("bench/out/", "bench/.venvs")

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def parts(snippet: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """`args` (the demo's where it shows none) and `user_config` of a snippet, whichever part of the file it is."""
    if "applications" in snippet:
        (application,) = snippet["applications"]
        return application["args"], parts(application)[1]
    if "deployments" in snippet:
        (registry,) = snippet["deployments"]
        return {}, registry["user_config"]
    return ({}, snippet["user_config"]) if "user_config" in snippet else (snippet, None)


@pytest.fixture(scope="module")
def demo() -> Settings:
    return load_file(ROOT / "serve_config.yaml", env={}, check_paths=False)[0]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_of_the_repository_that_is_named_exists(page: Path) -> None:
    for code in CODE.findall(prose(page)):
        if re.fullmatch(rf"({'|'.join(OURS)})/[\w./-]*", code) and not code.startswith(MADE):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets


@pytest.mark.parametrize("snippet", snippets("yaml", about="models:"))
def test_every_piece_of_config_is_valid(snippet: str, demo: Settings) -> None:
    args, user_config = parts(yaml.safe_load(snippet))
    env = dict.fromkeys(re.findall(r"\$\{(\w+)\}", snippet), "a-value-from-the-environment")
    settings = load_args(args, env=env, check_paths=False) if args else demo
    settings.with_live(user_config, env=env)


@pytest.mark.parametrize("snippet", snippets("python"))
def test_every_name_that_python_snippets_import_from_us_exists(snippet: str) -> None:
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_the_documented_metrics_are_the_catalogue() -> None:
    documented = re.findall(r"^\| `(switchboard_\w+)`", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    catalogue = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    families = [family for metric in catalogue for family in metric.collect()]
    exposed = [family.name + "_total" * (family.type == "counter") for family in families]
    assert sorted(documented) == sorted(exposed)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_every_endpoint_is_documented_with_its_methods(endpoint: Any) -> None:
    page = (ROOT / "docs/api.md").read_text()
    path = endpoint.path.replace("{id:path}", "{id}")
    for method in endpoint.methods:
        assert method == "HEAD" or f"| `{method} {path}` |" in page, method


def test_every_error_is_documented_with_its_status() -> None:
    page = (ROOT / "docs/api.md").read_text()
    told = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.SwitchboardError) and not error.__subclasses__()
    ]
    for error in told:
        if error is not errors.ConfigError:
            assert f"| {error.status} |" in page, error
            assert error.default_code is None or f"`{error.default_code}`" in page, error
