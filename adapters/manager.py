"""What a manager of models asks about adapters, and how they get into its engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapters.catalog import AdapterRow, Catalog
from adapters.residency import Residency, ResidencyLimits, ResidencyObserver
from adapters.snapshots import SnapshotStore
from serve.config import Settings
from serve.errors import NotFound, SwitchboardError, Unavailable
from serve.quoting import quoted
from serve.schemas import AdapterRef, AdapterVersion

logger = logging.getLogger(__name__)


class AdapterHost(Protocol):
    """An engine that takes adapters. Its calls raise `SwitchboardError`s only."""

    @property
    def name(self) -> str:
        """The model's."""
        ...

    @property
    def slots(self) -> int:
        """How many adapters it holds at once, in use or not."""
        ...

    @property
    def max_rank(self) -> int: ...

    @property
    def base_path(self) -> Path:
        """The folder with the base model's files."""
        ...

    async def add_adapter(self, ref: AdapterRef, path: Path) -> None: ...

    async def remove_adapter(self, ref: AdapterRef) -> None: ...


class BotRow(Protocol):
    """What is needed to know of a configured bot."""

    @property
    def model(self) -> str: ...

    @property
    def adapters(self) -> Sequence[str]:
        """Names of its adapters, at most one for each model."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    host: AdapterHost
    residency: Residency


class AdapterManager:
    """The adapters of the engines in this process. For one event loop; work on files runs in other threads.

    Engines register as they start and unregister as they stop; in between, sources are looked at every
    `refresh_s` seconds. `limits` gives the bounds by model.
    """

    def __init__(
        self,
        adapters: Iterable[AdapterRow],
        bots: Mapping[str, BotRow],
        store: SnapshotStore,
        *,
        limits: Mapping[str, ResidencyLimits] | None = None,
        refresh_s: float = 30.0,
        observer: ResidencyObserver | None = None,
    ) -> None:
        self._catalog = Catalog(adapters, store)
        self._bots = dict(bots)
        self._limits = limits or {}
        self._refresh_s = refresh_s
        self._observer = observer
        self._places: dict[str, _Place] = {}
        self._refreshes: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, models: Iterable[str], observer: ResidencyObserver | None = None
    ) -> AdapterManager:
        """The adapters of `models`, and all bots."""
        storage = settings.adapter_storage
        return cls(
            [row for model in models for row in settings.adapters_of(model)],
            settings.bots,
            SnapshotStore(Path(storage.cache_dir).resolve(), storage.max_adapter_bytes),
            limits=limits_of(settings),
            refresh_s=storage.refresh_s,
            observer=observer,
        )

    # Engines.

    async def register_manager(self, host: AdapterHost) -> None:
        """Offer the slots of an engine. Afterwards the adapters of its model can be resolved."""
        if host.name in self._places:
            raise ValueError(f"an engine for {host.name} is registered already")
        limits = self._limits.get(host.name)
        residency = Residency(host.slots, host.add_adapter, host.remove_adapter, limits, self._observer)
        await asyncio.to_thread(self._catalog.add_model, host.name, host.base_path, host.max_rank)
        await self.refresh()
        self._places[host.name] = _Place(host, residency)
        if self._refreshes is None:
            self._refreshes = asyncio.create_task(self._refresh_forever())

    def unregister_manager(self, name: str) -> None:
        """The engine is going with all that is in it; its adapters stay known. Unknown ones are no error."""
        self._places.pop(name, None)
        if not self._places and self._refreshes is not None:
            self._refreshes.cancel()
            self._refreshes = None

    async def close(self) -> None:
        """Give up the copies of adapters' files, once no engine can need them any more."""
        for name in tuple(self._places):
            self.unregister_manager(name)
        await asyncio.to_thread(self._catalog.close)

    async def refresh(self) -> None:
        """Look at every source again."""
        await asyncio.to_thread(self._catalog.refresh, self._in_use())

    async def preload(self) -> Mapping[str, SwitchboardError]:
        """Put the adapters that should be there from the start into the engines, as far as slots reach.

        Returns what went wrong, by `model:name`: an adapter that cannot be loaded is no reason not to serve.
        """
        failures: dict[str, SwitchboardError] = {}
        for model, place in tuple(self._places.items()):
            for name in self._catalog.to_preload(model)[: place.host.slots]:
                try:
                    await self.activate(model, self.resolve(model, name))
                except SwitchboardError as error:
                    failures[f"{model}:{name}"] = error
                    logger.warning("the adapter %s of %s was not preloaded: %s", name, model, error)
        return failures

    # Names.

    def resolve(self, model: str, name: str, version: str | None = None) -> AdapterRef:
        """The version that `model:name[@version]` means now, without I/O.

        Raises `NotFound`, `AdapterUnusable`, or `Unavailable` before the model's engine has registered.
        """
        return self._catalog.resolve(model, name, version)

    def adapter_of_bot(self, model: str, bot_type: str) -> AdapterRef | None:
        """The bot's adapter for `model`, or None if it has none there.

        Raises `NotFound` (`bot_not_found`), and as `resolve` does.
        """
        bot = self._bots.get(bot_type)
        if bot is None:
            raise NotFound(f"The bot {quoted(bot_type)} does not exist.", "bot_type", "bot_not_found")
        name = next((name for name in bot.adapters if self._catalog.has(model, name)), None)
        return None if name is None else self.resolve(model, name)

    def update_bots(self, bots: Mapping[str, BotRow]) -> None:
        """For the requests from now on."""
        self._bots = dict(bots)

    def update_limits(self, limits: Mapping[str, ResidencyLimits]) -> None:
        """For the loads and the waiting requests from now on, by model."""
        self._limits = limits
        for model, place in self._places.items():
            if model in limits:
                place.residency.update_limits(limits[model])

    def versions(self) -> tuple[AdapterVersion, ...]:
        """Every version that is known here, as a replica advertises them."""
        return self._catalog.versions()

    # Use.

    @asynccontextmanager
    async def lease(self, ref: AdapterRef) -> AsyncIterator[None]:
        """Hold exactly this version in its model's engine, loaded first if need be, while the block runs.

        Raises `NotFound`, `AdapterUnusable`; `Unavailable` when the model has no engine here now, or no free
        slot.
        """
        path = self._catalog.path(ref)
        place = self._places.get(ref.model)
        if place is None:
            raise Unavailable(f"The model {quoted(ref.model)} is not loaded here.", retry_after_s=1.0)
        async with place.residency.lease(ref, path):
            yield

    async def activate(self, model: str, ref: AdapterRef) -> None:
        """Put `ref` into the engine, until another one needs the slot. Raises as `lease` does."""
        if ref.model != model:
            raise NotFound(
                f"The adapter {quoted(ref.short)} is not one of {quoted(model)}.",
                "model",
                "adapter_not_found",
            )
        async with self.lease(ref):
            return

    async def activate_adapters_for_bot(self, model: str, bot_type: str) -> AdapterRef | None:
        """Put the bot's adapter for `model` into the engine; None if it has none there.

        Raises as `adapter_of_bot` and `lease` do.
        """
        ref = self.adapter_of_bot(model, bot_type)
        if ref is not None:
            await self.activate(model, ref)
        return ref

    def resident(self) -> frozenset[str]:
        """The addresses of the adapters in the engines now."""
        return frozenset().union(*(place.residency.resident() for place in self._places.values()))

    def _in_use(self) -> frozenset[str]:
        return frozenset().union(*(place.residency.wanted() for place in self._places.values()))

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except Exception:
                # The outermost frame of this task: whatever it is, it must not be the last time.
                logger.exception("the sources of adapters could not be looked at; again in %g s", self._refresh_s)


def limits_of(settings: Settings) -> Mapping[str, ResidencyLimits]:
    """The bounds on the adapters of each model."""
    return {
        model.name: ResidencyLimits(
            max_parallel_loads=model.limits.max_adapter_loads,
            wait_s=model.timeouts.adapter_wait_s,
            max_waiting=model.limits.max_adapter_waiting,
            negative_cache_s=settings.adapter_storage.negative_cache_s,
        )
        for model in settings.models
    }
