"""The one Switchboard that all tests marked `engine` share, and the order in which they use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.live import config
from tests.live.asking import Client, connected
from tests.live.running import Switchboard
from tests.live.running import switchboard as running

# How long an example takes, or takes to make, says something of the machine only.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

ORDER = ("contract", "e2e", "faults")
"""Folders of the tests that share it. Those that kill its processes come last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return ORDER.index(folder) if folder in ORDER else -1

    items.sort(key=turn)


@pytest.fixture(scope="session")
def switchboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switchboard]:
    """Two replicas of the demo model, its adapters and bots, an embedding model, and an outside server."""
    if not config.DEMO.exists():
        pytest.fail("there is no demo model: run 'make demo'")
    with running(tmp_path_factory.mktemp("switchboard")) as one:
        yield one


@pytest.fixture
async def client(switchboard: Switchboard) -> AsyncIterator[Client]:
    async with connected(switchboard.base_url, switchboard.client_key) as one:
        yield one
