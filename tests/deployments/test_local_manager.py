"""The framework's own calls, on a manager in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.hosted_manager import HostedModel
from serve.api.endpoints import Kind
from serve.config import BotConfig
from serve.errors import AdapterUnusable, InvalidRequest, NotFound
from serve.schemas import Json, Load
from tests.deployments.conftest import Args, MakeManager, Manager
from tests.fakes.http_server import HttpServer, listening
from tests.fakes.replica import COMPLETION, answers

# Models.


async def test_a_model_is_loaded_once(manager: Manager) -> None:
    model = await manager.get_model("demo")
    assert model.name == "demo"
    assert await manager.get_model("demo") is model
    await manager.start()
    assert manager.starts == ["demo"]


async def test_a_model_of_another_manager(manager: Manager) -> None:
    for call in (manager.get_model("other"), manager.generate_response("Hello?", "other")):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.code == "model_not_found"
    with pytest.raises(NotFound):
        manager.prepare_inference_params("other")


def two_models(args: Args, cache_gib: float) -> list[Json]:
    return [
        args["models"][0] | {"manager": "both", "model_cache_gib": cache_gib},
        {"name": "other", "provider": "local", "model_id": args["models"][0]["model_id"] + "-2", "manager": "both"},
    ]


async def test_a_model_that_has_to_go_is_really_ended(make: MakeManager, args: Args, tmp_path: Path) -> None:
    for name in ("demo", "demo-2"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text((tmp_path / "demo" / "config.json").read_text())
        (tmp_path / name / "model.safetensors").write_bytes((tmp_path / "demo" / "model.safetensors").read_bytes())
    size = (tmp_path / "demo" / "model.safetensors").stat().st_size
    manager = await make("both", models=two_models(args, 1.5 * size / 1024**3))
    await manager.get_model("demo")
    first = manager.engines["demo"]
    assert (await manager.generate_response("Hello?", "other")).startswith("{")
    assert first.closed
    await manager.get_model("demo")
    assert manager.starts == ["demo", "other", "demo"]
    # Its adapters can be had again too.
    await manager.activate_adapter("demo", "support")


async def test_the_end_of_a_manager_is_the_end_of_its_engines(manager: Manager) -> None:
    await manager.get_model("demo")
    await manager.close()
    assert manager.engines["demo"].closed


async def test_health_and_load_are_the_engines(manager: Manager) -> None:
    assert manager.load() == Load()
    await manager.check_health()
    await manager.start()
    engine = manager.engines["demo"]
    engine.reported = Load(in_flight=3, running=2, waiting=1, kv_cache=0.5)
    assert manager.load() == engine.reported
    engine.dead = True
    with pytest.raises(RuntimeError):
        await manager.check_health()


# Adapters.


async def test_an_adapter_gets_into_the_engine(manager: Manager) -> None:
    ref = await manager.activate_adapter("demo", "support")
    assert manager.engines["demo"].weights.keys() == {ref.address}
    assert await manager.activate_adapter("demo", "support", ref.digest) == ref
    assert manager.engines["demo"].loads == [ref.address]
    with pytest.raises(NotFound):
        await manager.activate_adapter("demo", "nobody")
    with pytest.raises(NotFound):
        await manager.activate_adapter("demo", "support", "0" * 12)


async def test_a_bots_adapters(manager: Manager) -> None:
    await manager.get_model("demo")
    ref = await manager.adapter_manager.activate_adapters_for_bot("demo", "sales")
    assert ref is not None
    assert manager.engines["demo"].weights.keys() == {ref.address}
    assert await manager.adapter_manager.activate_adapters_for_bot("demo", "plain") is None


async def test_a_sessions_adapters(manager: Manager) -> None:
    assert manager.session_manager is not None
    session = await manager.session_manager.create("sales")
    assert await manager.activate_adapters_for_session("demo", session.id) is True
    assert [address.split("@")[0] for address in manager.engines["demo"].weights] == ["demo:sales"]
    plain = await manager.session_manager.create("plain")
    assert await manager.activate_adapters_for_session("demo", plain.id) is False
    with pytest.raises(NotFound) as caught:
        await manager.activate_adapters_for_session("demo", "sess_" + "0" * 32)
    assert caught.value.code == "session_not_found"


# Answers.


async def asked(manager: Manager, *arguments: Any, **options: Any) -> Json:
    """What the model was asked, which is also what it says."""
    return json.loads(await manager.generate_response("Hello?", *arguments, **options))  # type: ignore[no-any-return]


async def test_an_answer_of_the_base_model(manager: Manager) -> None:
    assert await asked(manager) == {
        "model": "demo",
        "messages": [{"role": "user", "content": "Hello?"}],
        "stream": False,
        "temperature": 0.2,
        "max_tokens": 64,
    }
    assert manager.engines["demo"].weights == {}


@pytest.mark.parametrize("who", ["adapter", "bot", "session", "own bot"])
async def test_an_answer_with_an_adapter(make: MakeManager, who: str) -> None:
    manager = await make(bot_type="support" if who == "own bot" else None)
    assert manager.session_manager is not None
    session = await manager.session_manager.create("support")
    options: dict[str, Json] = {
        "adapter": {"adapter": "support"},
        "bot": {"bot_type": "support"},
        "session": {"session_id": session.id},
        "own bot": {},
    }
    body = await asked(manager, "demo", **options[who])
    engine = manager.engines["demo"]
    assert [body["model"]] == list(engine.weights)
    assert body["model"].startswith("demo:support@")
    assert body["temperature"] == (0.2 if who == "adapter" else 0.7)


async def test_an_exact_version_of_an_adapter(manager: Manager) -> None:
    ref = await manager.activate_adapter("demo", "sales")
    assert (await asked(manager, adapter=ref.short))["model"] == ref.address
    with pytest.raises(NotFound):
        await manager.generate_response("Hello?", adapter="sales@" + "0" * 12)


async def test_an_adapter_that_cannot_be_loaded_is_not_replaced_by_the_base(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "support" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(AdapterUnusable):
        await manager.generate_response("Hello?", bot_type="support")
    assert manager.engines["demo"].app.asked == []


# Parameters.


def test_parameters_of_the_request_the_bot_and_the_model_in_that_order(manager: Manager) -> None:
    prepare = manager.prepare_inference_params
    assert prepare("demo") == {"temperature": 0.2, "max_tokens": 64}
    assert prepare("demo", bot_type="support") == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64}
    assert prepare("demo", bot_type="support", temperature=0.0, seed=1) == {
        "temperature": 0.0,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 1,
    }
    responses = prepare("demo", endpoint=Kind.RESPONSE, input="x")
    assert responses == {"input": "x", "temperature": 0.2, "max_output_tokens": 64}
    assert prepare("demo", endpoint=Kind.EMBEDDING, input="x") == {"input": "x"}


def test_parameters_change_live(manager: Manager) -> None:
    model = manager.models["demo"].model_copy(update={"default_params": {"temperature": 0.9}})
    manager.configure([model], {"new": BotConfig(model="demo", default_params={"top_p": 0.5})})
    assert manager.prepare_inference_params("demo", bot_type="new") == {"temperature": 0.9, "top_p": 0.5}
    assert manager.prepare_inference_params("demo", bot_type="support") == {"temperature": 0.9}


POISON: list[tuple[Json, str]] = [
    ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ({"prompt_logprobs": 0}, "prompt_logprobs"),
    ({"echo": True, "logprobs": 1}, "echo"),
    ({"echo": True, "logprobs": 0}, "echo"),
]


@pytest.mark.parametrize(("params", "field"), POISON)
def test_what_ends_an_engine_is_refused(manager: Manager, params: Json, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        manager.prepare_inference_params("demo", **params)
    assert caught.value.param == field


@pytest.mark.parametrize("params", [{"echo": True}, {"logprobs": 5}, {"prompt_logprobs": None}, {"echo": False}])
def test_what_does_not_is_not(manager: Manager, params: Json) -> None:
    assert manager.prepare_inference_params("demo", **params).items() >= params.items()


@pytest.mark.parametrize(
    ("endpoint", "params", "field"),
    [
        (Kind.RESPONSE, {"previous_response_id": "resp_1"}, "input"),
        (Kind.RESPONSE, {"conversation": "conv_1", "input": []}, "input"),
        (Kind.MESSAGE, {"max_tokens": 0}, "max_tokens"),
        (Kind.MESSAGE, {"max_tokens": 5, "fallbacks": "default"}, "fallbacks"),
    ],
)
def test_what_only_its_vendor_answers_is_refused(manager: Manager, endpoint: Kind, params: Json, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        manager.prepare_inference_params("demo", endpoint=endpoint, **params)
    assert caught.value.param == field


async def test_defaults_cannot_smuggle_it_in(make: MakeManager, args: Args) -> None:
    manager = await make(models=[args["models"][0] | {"default_params": {"echo": True}}])
    with pytest.raises(InvalidRequest):
        manager.prepare_inference_params("demo", logprobs=1)


async def test_an_engine_that_bears_it_may_be_asked(make: MakeManager, args: Args) -> None:
    engine = {"max_loras": 2, "allow_prompt_logprobs": True}
    manager = await make(models=[args["models"][0] | {"engine": engine}])
    for params, _ in POISON:
        assert manager.prepare_inference_params("demo", **params).items() >= params.items()


# A server elsewhere.


async def test_a_model_behind_an_outside_server_needs_no_engine(make: MakeManager) -> None:
    outside = {"name": "far", "provider": "local", "model_id": "llama3", "base_url": "http://127.0.0.1:9/v1"}
    manager = await make("far", models=[outside], adapters=[], bots={})
    model = await manager.get_model("far")
    assert isinstance(model, HostedModel)
    assert model.name == "llama3"
    assert manager.starts == []


async def test_a_server_that_wants_no_key_is_told_none(make: MakeManager) -> None:
    server = HttpServer(answers(COMPLETION))
    async with listening(server):
        outside = {"name": "far", "provider": "local", "model_id": "llama3", "base_url": f"{server.url}/v1"}
        manager = await make("far", models=[outside], adapters=[], bots={})
        assert await manager.generate_response("Hello?") == "Hello."
    assert (await server.call()).header("authorization") is None
