"""Who may come in, at every door there is: the gateway's, the replicas', and Ray's own."""

from __future__ import annotations

import aiohttp
import pytest

from tests.live.asking import CHAT, MESSAGES, Client, chat_body
from tests.live.processes import listening
from tests.live.running import Switchboard

pytestmark = pytest.mark.engine

SECRET = "x-switchboard-secret"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("POST", MESSAGES),
        ("POST", "/v1/messages/count_tokens"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/demo"),
        ("POST", "/v1/sessions"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/nowhere"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/tokenize"),
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer not-the-key-at-all"},
        {"authorization": "Bearer ' OR 1=1 --"},
        {"authorization": "Basic bm9ib2R5Om5vdGhpbmc="},
        {"authorization": "Bearer \u00e4\u00f6\u00fc-not-ascii"},
    ],
    ids=["no key", "wrong key", "SQL", "wrong scheme", "not ASCII"],
)
async def test_without_a_key_there_is_nothing(client: Client, method: str, path: str, headers: dict[str, str]) -> None:
    answer = await client.ask(method, path, None if method == "GET" else b"{}", headers)

    assert answer.status == 401, answer.body
    error = answer.json["error"]
    assert (answer.json.get("type"), error["type"]) == (
        ("error", "authentication_error") if path.startswith(MESSAGES) else (None, "invalid_request_error")
    )


async def test_probes_need_none(client: Client) -> None:
    for path in ("/health", "/ready"):
        assert (await client.get(path, {"authorization": ""})).status == 200


async def test_anthropic_s_header_opens_too(switchboard: Switchboard) -> None:
    headers = {"x-api-key": switchboard.client_key}
    async with (
        aiohttp.ClientSession(switchboard.base_url) as session,
        session.get("/v1/models", headers=headers) as one,
    ):
        assert one.status == 200


async def test_a_client_cannot_speak_as_the_router(client: Client) -> None:
    answer = await client.chat(
        "demo", "Hello", headers={"x-switchboard-model": "demo", "x-switchboard-adapter": "demo:sales@0", SECRET: "x"}
    )

    assert answer.adapter == "none; reason=not-asked-for"


async def test_no_port_of_a_manager_answers_without_the_cluster_s_secret(switchboard: Switchboard) -> None:
    """Ray's own ports do not speak HTTP/1; the one that does is the manager's."""
    managers = [
        *(await switchboard.replicas("LocalManager-demo")).values(),
        *(await switchboard.replicas("LocalManager-outside")).values(),
    ]
    refusals = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        for address, port in [socket for one in managers for socket in listening(one)]:
            url = f"http://127.0.0.1:{port}"
            for headers in ({}, {SECRET: "not-the-secret"}, {"authorization": f"Bearer {switchboard.client_key}"}):
                try:
                    async with session.post(url + CHAT, json=chat_body("demo", "Hello"), headers=headers) as response:
                        status = response.status
                except (aiohttp.ClientError, TimeoutError):
                    continue
                assert status == 403, (address, port, status)
                assert address == "127.0.0.1"
                refusals += 1
    assert refusals == 3 * len(managers)


async def test_ray_s_dashboard_wants_its_token(switchboard: Switchboard) -> None:
    url = f"http://127.0.0.1:{switchboard.dashboard_port}"
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/api/serve/applications/") as read:
            assert read.status == 401
        async with session.delete("/api/serve/applications/") as deleted:
            assert deleted.status in (401, 403, 405)
        async with session.post("/api/jobs/", json={"entrypoint": "id"}) as job:
            assert job.status in (401, 403)
