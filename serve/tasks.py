"""Tasks that run for as long as their owner does."""

from __future__ import annotations

import asyncio
from typing import Any


def why_ended(task: asyncio.Future[Any]) -> BaseException | None:
    """What a task that is done has failed with; None if it was cancelled, or simply returned."""
    return None if task.cancelled() else task.exception()
