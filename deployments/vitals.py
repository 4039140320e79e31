"""How a replica is: the phase that routers are told, and the tasks that it cannot do without."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serve.schemas import ReplicaPhase
from serve.tasks import why_ended


class Vitals:
    """`phase` is where the replica is in its life. One that is ill meanwhile is left out until it is well again."""

    def __init__(self) -> None:
        self.phase = ReplicaPhase.STARTING
        self._ill = False
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def watch(self, name: str, task: asyncio.Task[Any]) -> None:
        """A task that does not end while the replica serves."""
        self._tasks[name] = task

    @property
    def shown(self) -> ReplicaPhase:
        """What routers are told."""
        return ReplicaPhase.DRAINING if self._ill else self.phase

    @contextmanager
    def examined(self) -> Iterator[None]:
        """Run a check of health. Raises what the check does, and `RuntimeError` for the end of a watched task."""
        try:
            for name, task in self._tasks.items():
                if task.done():
                    raise RuntimeError(f"the {name} has ended") from why_ended(task)
            yield
        except Exception:  # whatever it is, it cannot be relied on
            self._ill = True
            raise
        self._ill = False
