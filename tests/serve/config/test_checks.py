"""What must hold between the entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.config import load_args
from tests.serve.config.conftest import Args, Faults


def test_models_have_names_of_their_own(args: Args, faults: Faults) -> None:
    args["models"][1]["name"] = "demo"
    assert faults(args) == ("models[1].name: 'demo' is the name of models[0] already",)


def test_adapters_of_one_model_have_names_of_their_own(args: Args, faults: Faults) -> None:
    args["adapters"][1]["name"] = "support"
    args["bots"] = {}
    assert faults(args) == ("adapters[1].name: 'support' is the name of adapters[0] already, for the same model",)


def test_adapters_of_different_models_may_share_a_name(args: Args, faults: Faults) -> None:
    args["models"][1]["engine"] = {"max_loras": 1}
    args["adapters"][1] |= {"name": "support", "model": "other"}
    args["bots"] = {
        "one": {"model": "demo", "adapters": ["support"]},
        "two": {"model": "other", "adapters": ["support"]},
    }
    assert faults(args) == ()


def test_a_bot_is_not_called_like_a_model(args: Args, faults: Faults) -> None:
    args["bots"]["other"] = {"model": "demo"}
    assert faults(args) == ("bots.other: is the name of a model too, so a request could mean either",)


@pytest.mark.parametrize(
    ("bot", "fault"),
    [
        ({"model": "dem"}, "model: there is no model 'dem'; did you mean 'demo'?"),
        ({"model": "zzz", "adapters": ["support"]}, "model: there is no model 'zzz'"),
        (
            {"model": "demo", "adapters": ["suport"]},
            "adapters[0]: there is no adapter 'suport'; did you mean 'support'?",
        ),
        (
            {"model": "other", "adapters": ["support"]},
            "adapters[0]: adapter 'support' is for 'demo', and this bot's model is 'other'",
        ),
        (
            {"model": "demo", "adapters": ["support", "sales"]},
            "adapters[1]: a bot has one adapter for a model, and 'support' is one for 'demo' already",
        ),
    ],
)
def test_a_bot_refers_to_what_there_is(args: Args, faults: Faults, bot: Args, fault: str) -> None:
    args["bots"]["bot"] = bot
    assert faults(args) == (f"bots.bot.{fault}",)


def test_an_adapter_needs_a_model_that_takes_adapters(args: Args, faults: Faults) -> None:
    args["models"].append({"name": "far", "provider": "local", "model_id": "x", "base_url": "http://127.0.0.1:1/v1"})
    args["adapters"] += [
        {"name": "a", "model": "zzz", "source": "models/sales"},
        {"name": "b", "model": "other", "source": "models/sales"},
        {"name": "c", "model": "far", "source": "models/sales"},
    ]
    assert faults(args) == (
        "adapters[2].model: there is no model 'zzz'",
        "adapters[3].model: model 'other' takes no adapters: its engine.max_loras is 0",
        "adapters[4].model: model 'far' takes no adapters: an outside server runs it (base_url)",
    )


def test_no_more_adapters_are_preloaded_than_the_engine_holds(args: Args, faults: Faults) -> None:
    args["models"][0]["engine"] = {"max_loras": 1}
    for adapter in args["adapters"]:
        adapter["preload"] = True
    assert faults(args) == ("adapters[1].preload: model 'demo' has room for 1 adapters (engine.max_cpu_loras)",)
    args["models"][0]["engine"] = {"max_loras": 1, "max_cpu_loras": 2}
    assert faults(args) == ()


def test_scaling_must_be_able_to_set_in(args: Args, faults: Faults) -> None:
    args["models"][0] |= {"limits": {"max_in_flight": 4}, "autoscaling": {"max_replicas": 2}}
    assert faults(args) == (
        "models[0].limits.max_in_flight: a replica takes 4 requests at most, below "
        "autoscaling.target_in_flight (8): no further replica would ever start",
    )


def test_a_reference_to_an_entry_at_fault_is_no_fault(args: Args, faults: Faults) -> None:
    args["models"][0]["engine"]["max_loras"] = "two"
    assert faults(args) == ("models[0].engine.max_loras: should be a whole number",)


def test_nor_is_one_to_an_entry_whose_name_is_not_known(args: Args, faults: Faults) -> None:
    args["models"][0]["name"] = "${NAME}"
    (fault,) = faults(args)
    assert fault.startswith("models[0].name: the environment variable NAME is not set")


def test_a_slip_at_the_top_brings_no_faults_below(args: Args, faults: Faults) -> None:
    args["adapter"] = args.pop("adapters")
    assert faults(args) == ("adapter: unknown key; did you mean 'adapters'?",)


class TestManagers:
    def test_a_model_has_a_manager_of_its_own_name(self, args: Args, root: Path) -> None:
        managers = load_args(args, env={}, root=root).managers()
        assert {name: [model.name for model in manager.models] for name, manager in managers.items()} == {
            "demo": ["demo"],
            "other": ["other"],
        }

    def test_models_that_share_one_share_what_any_of_them_sets(self, args: Args, root: Path) -> None:
        args["models"][0]["manager"] = args["models"][1]["manager"] = "both"
        args["models"][0] |= {"timeouts": {"drain_s": 5}, "autoscaling": {"max_replicas": 3}}
        args["models"][1] |= {"resources": {"num_cpus": 0.5}, "model_cache_gib": 2}
        args["models"][1]["engine"] = {"tensor_parallel_size": 2}
        (manager,) = load_args(args, env={}, root=root).managers().values()
        assert [model.name for model in manager.models] == ["demo", "other"]
        assert manager.autoscaling.max_replicas == 3
        assert manager.resources.num_cpus == 0.5
        assert manager.model_cache_bytes == 2 * 1024**3
        assert manager.drain_s == 120.0
        assert manager.workers == 2

    def test_they_may_not_differ(self, args: Args, faults: Faults) -> None:
        for index, model in enumerate(args["models"]):
            model |= {"manager": "both", "resources": {"num_cpus": index}, "autoscaling": {"max_replicas": 2}}
        assert faults(args) == (
            "models[1].resources: differs from models[0].resources, which shares the manager 'both'",
        )
