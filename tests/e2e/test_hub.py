"""A model of the Hugging Face hub, from its download to its answers."""

from __future__ import annotations

import pytest

from tests.live import config
from tests.live.asking import Client
from tests.live.hub import BREAKS_AFTER, WEIGHTS
from tests.live.running import Switchboard

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not config.EMBED.exists(), reason="there is no embedding model in models/demo-embed"),
]


async def test_it_answers(client: Client) -> None:
    answer = await client.post("/v1/embeddings", {"model": "demo-embed", "input": "When do you open?"})
    assert answer.status == 200, answer.body
    assert answer.headers["x-switchboard-served-by"].startswith("demo-embed; ")
    assert len(answer.json["data"][0]["embedding"]) > 1


def test_its_download_that_broke_off_was_resumed(switchboard: Switchboard) -> None:
    first, *more = switchboard.hub.ranges(WEIGHTS)
    assert (first, len(more)) == (None, 1)
    assert more[0] is not None
    begun = int(more[0].removeprefix("bytes=").partition("-")[0])
    assert 0 < begun <= BREAKS_AFTER


def test_it_was_downloaded_as_whom_the_config_says(switchboard: Switchboard) -> None:
    told = {request.headers.get("authorization") for request in switchboard.hub.requests}
    assert told == {f"Bearer {switchboard.hub_token}"}


def test_the_launcher_showed_how_far_it_was(switchboard: Switchboard) -> None:
    assert f"({WEIGHTS} is here)" in switchboard.output.read_text()
