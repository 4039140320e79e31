from __future__ import annotations

import asyncio

from serve.tasks import why_ended


async def test_why_a_task_has_ended() -> None:
    error = KeyError("not foreseen")

    async def fails() -> None:
        raise error

    failed, returned = asyncio.create_task(fails()), asyncio.create_task(asyncio.sleep(0))
    cancelled = asyncio.create_task(asyncio.Event().wait())
    cancelled.cancel()
    await asyncio.wait([failed, returned, cancelled])
    assert [why_ended(task) for task in (failed, returned, cancelled)] == [error, None, None]
