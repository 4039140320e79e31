"""What changes live: `with_live`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.config import Settings, load_args
from serve.errors import ConfigError
from tests.serve.config.conftest import Args


@pytest.fixture
def settings(args: Args, root: Path) -> Settings:
    args["models"][0] |= {"default_params": {"temperature": 0, "top_p": 0.5}, "limits": {"max_in_flight": 16}}
    return load_args(args, env={}, root=root)


def faults_of(settings: Settings, user_config: Any, env: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        settings.with_live(user_config, env=env or {})
    return caught.value.faults


@pytest.mark.parametrize("nothing", [None, {}, {"bots": None} and {"models": {}, "limits": {}}])
def test_an_empty_change_changes_nothing(settings: Settings, nothing: Args | None) -> None:
    assert settings.with_live(nothing) == settings


def test_the_live_part_is_what_a_user_config_would_say(settings: Settings) -> None:
    assert settings.live.models["demo"].limits.max_in_flight == 16
    assert settings.with_live(settings.live.model_dump()) == settings


def test_bots_given_are_all_the_bots(settings: Settings) -> None:
    live = settings.with_live({"bots": {"new": {"model": "other"}}})
    assert list(live.bots) == ["new"]
    assert list(settings.with_live({"bots": {}}).bots) == []
    assert list(settings.bots) == ["support-bot", "sales-bot"]


def test_all_else_merges_key_by_key(settings: Settings) -> None:
    live = settings.with_live(
        {
            "models": {"demo": {"default_params": {"temperature": 1}, "limits": {"max_adapter_loads": 1}}},
            "limits": {"body_mib": 1},
        }
    )
    demo, other = live.models
    assert demo.default_params == {"temperature": 1, "top_p": 0.5}
    assert (demo.limits.max_in_flight, demo.limits.max_adapter_loads) == (16, 1)
    assert (live.limits.body_mib, live.limits.max_in_flight) == (1.0, 256)
    assert other == settings.models[1]
    assert live.bots == settings.bots


def test_references_work_here_too(settings: Settings) -> None:
    live = settings.with_live({"limits": {"max_in_flight": "${N}"}}, env={"N": "7"})
    assert live.limits.max_in_flight == 7


def test_all_faults_are_reported_at_once(settings: Settings) -> None:
    change = {
        "bots": {
            "demo": {"model": "other"},
            "lost": {"model": "demmo"},
            "mixed": {"model": "other", "adapters": ["sales"]},
            "odd": {"model": "demo", "adaptors": []},
        },
        "models": {"demo": {"engine": {}, "limits": {"max_in_flight": "8"}}, "othr": {}, "other": []},
        "limits": {"body_mib": None},
        "timeouts": {},
        "adapters": ["${X}"],
    }
    assert faults_of(settings, change) == (
        "adapters: unknown key",
        "adapters[0]: the environment variable X is not set; ${X:-default} would do without it",
        "bots.demo: is the name of a model too, so a request could mean either",
        "bots.lost.model: there is no model 'demmo'; did you mean 'demo'?",
        "bots.mixed.adapters[0]: adapter 'sales' is for 'demo', and this bot's model is 'other'",
        "bots.odd.adaptors: unknown key; did you mean 'adapters'?",
        "limits.body_mib: should be a number",
        "models.demo.engine: unknown key",
        "models.demo.limits.max_in_flight: should be a whole number",
        "models.other: should be a mapping",
        "models.othr: there is no such model; did you mean 'other'?",
        "timeouts: unknown key",
    )


@pytest.mark.parametrize("change", [[], "text", 5])
def test_a_change_that_is_no_mapping(settings: Settings, change: Any) -> None:
    assert faults_of(settings, change) == ("(top): should be a mapping",)


def test_a_rule_between_live_and_fixed_keys_names_the_live_one(args: Args, root: Path) -> None:
    args["models"][0]["autoscaling"] = {"max_replicas": 2}
    settings = load_args(args, env={}, root=root)
    (fault,) = faults_of(settings, {"models": {"demo": {"limits": {"max_in_flight": 2}}}})
    assert fault.startswith("models.demo.limits.max_in_flight: a replica takes 2 requests at most")
