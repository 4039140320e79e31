"""What the gateway answers by itself."""

from __future__ import annotations

import aiohttp
import anthropic
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.gateway.upstream import MAX_PAGE_BYTES
from serve.schemas import ReplicaPhase
from tests.fakes import replica as fake
from tests.fakes.http_server import Behaviour
from tests.serve.gateway.running import ADAPTERS, CHAT, SUPPORT, Running, Start, chat

NAMES = ["demo", "demo:support", "demo:sales", "sleepy", "support", "sales"]
ANTHROPIC = {"anthropic-version": "2023-06-01"}


# Models.


async def test_models_adapters_and_bots_as_openai_lists_them(running: Running) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{running.url}/v1", api_key="none", _strict_response_validation=True
    ) as sdk:
        listed = await sdk.models.list()
        assert [model.id for model in listed.data] == NAMES
        one = await sdk.models.retrieve("demo:support")
        assert one.id == "demo:support"
        with pytest.raises(openai.NotFoundError) as refused:
            await sdk.models.retrieve("nobody")
        assert refused.value.code == "model_not_found"


async def test_models_adapters_and_bots_as_anthropic_lists_them(running: Running) -> None:
    async with anthropic.AsyncAnthropic(base_url=running.url, api_key="none", _strict_response_validation=True) as sdk:
        assert [model.id async for model in sdk.models.list(limit=2)] == NAMES
        one = await sdk.models.retrieve("demo:support")
        assert (one.id, one.type) == ("demo:support", "model")
        with pytest.raises(anthropic.NotFoundError):
            await sdk.models.retrieve("nobody")


async def test_what_a_name_stands_on(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/models") as answer:
        cards = {card["id"]: card for card in (await answer.json())["data"]}
    assert (cards["demo:sales"]["parent"], cards["demo:sales"]["kind"]) == ("demo", "adapter")
    assert (cards["sales"]["parent"], cards["sales"]["kind"]) == ("demo", "bot")
    assert "parent" not in cards["demo"]


@pytest.mark.parametrize("path", ["/v1/models/demo:support", "/v1/models/demo%3Asupport"])
async def test_a_name_may_be_escaped(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        assert (await answer.json())["id"] == "demo:support"


async def test_a_version_of_an_adapter_is_found_and_not_listed(running: Running, client: aiohttp.ClientSession) -> None:
    await running.replica()
    name = f"demo:support@{SUPPORT.digest}"
    async with client.get(f"/v1/models/{name}") as answer:
        card = await answer.json()
    assert (card["id"], card["parent"], card["kind"]) == (name, "demo", "adapter")
    async with client.get("/v1/models/demo:support@nothing") as answer:
        assert answer.status == 404
    async with client.get("/v1/models") as answer:
        assert name not in {entry["id"] for entry in (await answer.json())["data"]}


async def test_a_name_with_a_slash(start: Start, args: dict[str, list[dict[str, str]]]) -> None:
    model = {"name": "org/model", "provider": "local", "model_id": "x"}
    running = await start(models=[*args["models"], model])
    client = await running.client()
    async with client.get("/v1/models/org/model") as answer:
        assert (await answer.json())["id"] == "org/model"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo", "/health", "/ready", "/metrics"])
async def test_only_the_head(running: Running, client: aiohttp.ClientSession, path: str) -> None:
    await running.replica()
    async with client.head(path) as answer:
        assert answer.status == 200
        assert await answer.read() == b""


# Health and readiness.


async def test_alive_means_no_more_than_that(client: aiohttp.ClientSession) -> None:
    async with client.get("/health") as answer:
        assert answer.status == 200
        assert await answer.json() == {"status": "ok"}


async def test_ready_when_every_model_has_a_replica_or_may_sleep(
    running: Running, client: aiohttp.ClientSession
) -> None:
    waiting = {"status": "waiting", "waiting_for": ["demo"]}
    async with client.get("/ready") as answer:
        assert (answer.status, await answer.json()) == (503, waiting)
        assert answer.headers["retry-after"] == "1"
    replica = fake.Replica("one")
    for phase, ready in [
        (ReplicaPhase.STARTING, False),
        (ReplicaPhase.READY, True),
        (ReplicaPhase.DRAINING, False),
    ]:
        await running.registry.hears(replica.state(phase))
        async with client.get("/ready") as answer:
            assert answer.status == (200 if ready else 503)
            assert (await answer.json())["status"] == ("ready" if ready else "waiting")


# Metrics.


async def scrape(client: aiohttp.ClientSession) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels."""
    async with client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        page = await answer.text()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    return found


VLLM_PAGE = b"""# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="demo"} %d
# HELP vllm:prompt_tokens_total Tokens.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model_name="demo"} 10.0
# HELP vllm:ttft_seconds Time.
# TYPE vllm:ttft_seconds histogram
vllm:ttft_seconds_bucket{le="0.1"} 1.0
vllm:ttft_seconds_bucket{le="+Inf"} 2.0
vllm:ttft_seconds_count 2.0
vllm:ttft_seconds_sum 0.5
"""


async def test_one_page_for_all_routers_and_replicas(running: Running, client: aiohttp.ClientSession) -> None:
    for number, name in enumerate(("one", "two")):
        replica = await running.replica(name)
        replica.behave = fake.answers_bytes(VLLM_PAGE % number, 200, ("content-type", "text/plain"))
    running.registry.expositions["router-2"] = (
        b"# HELP switchboard_in_flight x\n# TYPE switchboard_in_flight gauge\nswitchboard_in_flight 7.0\n"
    )
    found = await scrape(client)
    running_counts = found["vllm:num_requests_running"]
    assert [(dict(labels)["replica"], value) for labels, value in running_counts.items()] == [("one", 0), ("two", 1)]
    assert len(found["vllm:ttft_seconds_bucket"]) == 4
    assert found["vllm:prompt_tokens_total"] == {
        (("model_name", "demo"), ("replica", name)): 10.0 for name in ("one", "two")
    }
    assert found["switchboard_in_flight"] == {(("replica", "router-1"),): 0.0, (("replica", "router-2"),): 7.0}


async def test_replicas_show_their_metrics_to_the_cluster_only(running: Running, client: aiohttp.ClientSession) -> None:
    replica = await running.replica()
    replica.behave = fake.answers_bytes(b"", 200, ("content-type", "text/plain"))
    await scrape(client)
    call = await replica.call()
    assert (call.method, call.path) == ("GET", "/metrics")
    assert call.header("x-switchboard-secret") == "the-cluster-s-own-secret"


@pytest.mark.parametrize(
    "page",
    [
        fake.answers_bytes(b"<html>not metrics {</html>"),
        fake.answers_bytes(b"\xff\xfe"),
        fake.answers_bytes(VLLM_PAGE, 500),
        fake.resets,
        fake.cut_at(20),
        fake.answers_bytes(VLLM_PAGE % 3 + b"# " + b"x" * MAX_PAGE_BYTES),
    ],
    ids=["HTML", "not UTF-8", "500", "reset", "cut", "too long"],
)
async def test_a_replica_without_a_page_is_left_out(
    running: Running, client: aiohttp.ClientSession, page: Behaviour
) -> None:
    good, bad = await running.replica("good"), await running.replica("bad")
    good.behave, bad.behave = fake.answers_bytes(VLLM_PAGE % 3), page
    found = await scrape(client)
    assert [dict(labels)["replica"] for labels in found["vllm:num_requests_running"]] == ["good"]


async def test_metrics_without_a_registry_are_this_routers(running: Running, client: aiohttp.ClientSession) -> None:
    await running.registry.goes_away()
    found = await scrape(client)
    assert list(found["switchboard_in_flight"]) == [(("replica", "router-1"),)]


async def test_metrics_when_every_place_is_taken(start: Start) -> None:
    running = await start(limits={"max_in_flight": 1})
    client = await running.client()
    replica = await running.replica()
    replica.behave = fake.in_turn(fake.stalls_after(1), fake.answers_bytes(VLLM_PAGE % 1))
    async with client.post(CHAT, json=chat(stream=True)):
        assert "vllm:num_requests_running" in await scrape(client)


async def test_what_a_client_sends_is_no_label(running: Running, client: aiohttp.ClientSession) -> None:
    await running.replica()
    for name in ("demo", "support", "sk-canary"):
        async with client.post(CHAT, json=chat(name), headers={"x-request-id": "canary"}):
            pass
    async with client.get("/v1/canary"), client.get("/metrics") as answer:
        page = await answer.text()
    assert "canary" not in page
    assert 'switchboard_requests_total{replica="router-1",endpoint="chat",model="demo",status="200"}' in page


async def test_ready_replicas_are_counted(running: Running, client: aiohttp.ClientSession) -> None:
    await running.replica("one")
    two = await running.replica("two")
    await running.registry.hears(two.state(ReplicaPhase.DRAINING, ADAPTERS))
    found = await scrape(client)
    assert found["switchboard_live_replicas"][(("model", "demo"), ("replica", "router-1"))] == 1
