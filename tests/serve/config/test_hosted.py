"""Models of hosted providers and of the hub: keys that are missing, and what may not be said."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from serve.config import HuggingFaceModel, KeyedModel, OpenAIModel, load_args
from serve.errors import ConfigError

KEY = "sk-canary-0123456789"
GPT = {"name": "gpt", "provider": "openai", "model_id": "gpt-5.2", "api_key": "${OPENAI_API_KEY}"}
CLAUDE = {"name": "claude", "provider": "anthropic", "model_id": "claude-sonnet-4-5", "api_key": "${ANTHROPIC_API_KEY}"}
HUB = {"name": "tiny", "provider": "huggingface", "model_id": "acme/tiny", "revision": "a" * 40}


def load(*models: dict[str, Any], **env: str) -> Any:
    return load_args({"models": list(models)}, env=env, check_paths=False)


def faults(*models: dict[str, Any], **env: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load(*models, **env)
    return refused.value.faults


def test_a_key_comes_from_the_environment_and_is_shown_nowhere() -> None:
    settings = load(GPT, OPENAI_API_KEY=KEY)
    (model,) = settings.models
    assert isinstance(model, OpenAIModel)
    assert model.key() == KEY
    assert model.why_unavailable is None
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()


def test_a_missing_key_keeps_nobody_else_from_starting() -> None:
    settings = load(GPT, CLAUDE, ANTHROPIC_API_KEY=KEY)
    gpt, claude = settings.models
    assert gpt.why_unavailable == "the environment variable OPENAI_API_KEY is not set"
    assert claude.why_unavailable is None
    for copy in (pickle.loads(pickle.dumps(settings)), settings.without_provider_keys()):
        assert copy.models[0].why_unavailable == gpt.why_unavailable
        assert copy.models[1].why_unavailable is None


def test_any_other_missing_variable_does() -> None:
    assert faults(GPT | {"model_id": "${WHICH}"}, OPENAI_API_KEY=KEY) == (
        "models[0].model_id: the environment variable WHICH is not set; ${WHICH:-default} would do without it",
    )


def test_a_key_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    keyless = {name: value for name, value in GPT.items() if name != "api_key"}
    (model,) = load(keyless | {"api_key_file": str(file)}).models
    assert isinstance(model, KeyedModel)
    assert model.key() == KEY
    file.write_text("two words")
    with pytest.raises(ValueError, match="holds no key"):
        model.key()
    assert faults(GPT | {"api_key_file": str(file)}, OPENAI_API_KEY=KEY) == (
        "models[0]: takes either api_key or api_key_file",
    )


def test_managers_get_no_keys_but_their_own() -> None:
    settings = load(GPT, CLAUDE, HUB | {"token": KEY}, OPENAI_API_KEY=KEY, ANTHROPIC_API_KEY=KEY)
    bare = settings.without_provider_keys()
    assert KEY.encode() not in pickle.dumps(bare)
    own = settings.managers()["gpt"]
    assert [model.name for model in own.models] == ["gpt"]


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (HUB | {"revision": "main"}, "models[0].revision: must be a commit"),
        (HUB | {"model_id": "../etc/passwd"}, "models[0].model_id: must be a repository"),
        (HUB | {"engine": {"extra": {"trust_remote_code": True}}}, "models[0].engine.extra: must not set trust_remote"),
        (GPT | {"endpoints": []}, "models[0].endpoints:"),
        (GPT | {"base_url": "https://user:pass@host/v1"}, "models[0].base_url: must hold no user"),
        (GPT | {"engine": {}}, "models[0].engine: unknown key"),
        (GPT | {"fallback_model": "gpt"}, "models[0].fallback_models[0]: is the model itself"),
        (GPT | {"fallback_models": ["claud"]}, "models[0].fallback_models[0]: there is no model 'claud'"),
    ],
)
def test_what_may_not_be_said(model: dict[str, Any], fault: str) -> None:
    (found,) = faults(model, CLAUDE, OPENAI_API_KEY=KEY, ANTHROPIC_API_KEY=KEY)
    assert found.startswith(fault)


def test_one_fallback_may_stand_without_a_list() -> None:
    settings = load(GPT | {"fallback_model": "claude"}, CLAUDE, OPENAI_API_KEY=KEY, ANTHROPIC_API_KEY=KEY)
    assert settings.models[0].fallback_models == ("claude",)


def test_a_manager_has_one_provider() -> None:
    (fault,) = faults(
        GPT | {"manager": "both"}, CLAUDE | {"manager": "both"}, OPENAI_API_KEY=KEY, ANTHROPIC_API_KEY=KEY
    )
    assert fault == "models[1].manager: the manager 'both' serves models[0], of another provider"


def test_a_manager_has_a_model_once() -> None:
    (fault,) = faults(
        GPT | {"manager": "both"}, GPT | {"name": "other", "manager": "both"}, OPENAI_API_KEY=KEY, ANTHROPIC_API_KEY=KEY
    )
    assert fault == "models[1].model_id: is models[0].model_id too, which shares the manager 'both'"


def test_hosted_models_take_no_adapters() -> None:
    args = {"models": [GPT], "adapters": [{"name": "support", "model": "gpt", "source": "support"}]}
    with pytest.raises(ConfigError) as refused:
        load_args(args, env={"OPENAI_API_KEY": KEY}, check_paths=False)
    assert refused.value.faults == ("adapters[0].model: model 'gpt' takes no adapters: another server runs it",)


def test_a_bot_may_have_an_adapter_for_each_model_of_its_chain() -> None:
    local = {"provider": "local", "engine": {"max_loras": 1}}
    args: dict[str, Any] = {
        "models": [local | {"name": "a", "model_id": "a"}, local | {"name": "b", "model_id": "b"}],
        "adapters": [{"name": f"support-{name}", "model": name, "source": name} for name in ("a", "b")],
        "bots": {"support": {"model": "a", "adapters": ["support-a", "support-b"], "fallback_models": ["b"]}},
    }
    settings = load_args(args, env={}, check_paths=False)
    assert settings.bots["support"].fallback_models == ("b",)
    args["bots"]["support"]["fallback_models"] = []
    with pytest.raises(ConfigError, match="this bot's model is 'a'"):
        load_args(args, env={}, check_paths=False)


def test_hub_models_are_run_here() -> None:
    (model,) = load(HUB | {"engine": {"max_loras": 2}}).models
    assert isinstance(model, HuggingFaceModel)
    assert (model.adapter_slots, model.is_remote, model.why_no_adapters) == (2, False, None)
