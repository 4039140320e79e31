"""What is live: the replicas that answer, their addresses, adapters and load.

Managers `heartbeat`; routers long-poll `wait_for_change` and route by the `Snapshot` they hold. The registry
keeps nothing on disk: after a crash it starts a new `epoch`, empty and `rebuilding`, and hears every replica
again within a heartbeat. Until then routers `merge` what they knew into what it tells them, so that its death
costs no request.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from typing_extensions import override

from serve.adapter_versions import resolve_version
from serve.errors import Unavailable
from serve.schemas import AdapterRef, AdapterVersion, ReplicaPhase, ReplicaState


@dataclass(frozen=True)
class Snapshot:
    """The registry at one moment. Immutable: its indexes are built once, on first use, for all requests.

    `epoch` is one life of a registry; `version` grows within it and says nothing across two. `rebuilding`:
    the registry is younger than `rebuild_s` and may not have heard every replica yet. `left` lists the
    replicas that are gone for certain since it began to rebuild: silence of any other one means nothing yet.
    """

    epoch: str
    version: int
    rebuilding: bool
    replicas: tuple[ReplicaState, ...]
    left: frozenset[str] = frozenset()

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # Not the default, which would send the indexes along.
        return Snapshot, (self.epoch, self.version, self.rebuilding, self.replicas, self.left)

    def replicas_of(self, model: str) -> tuple[ReplicaState, ...]:
        """The replicas of `model`, whatever their phase."""
        return self._replicas_by_model.get(model, ())

    def ready_models(self) -> frozenset[str]:
        return self._ready_models

    def versions_of(self, model: str, name: str) -> tuple[AdapterVersion, ...]:
        """Every version of the adapter that a replica advertises: the same files once for each label they have.

        Merged over replicas: current where any says so, since the newest time at which one says so, and
        faulty only if none can load it. Empty when no replica advertises the adapter.
        """
        return self._versions.get((model, name), ())

    def hosts_of(self, adapter: AdapterRef) -> tuple[ReplicaState, ...]:
        """The replicas that advertise this version without a fault, whatever their phase."""
        return self._hosts.get(adapter.address, ())

    def resolve_adapter(self, model: str, name: str, version: str | None) -> AdapterRef:
        """The adapter version that `model:name[@version]` means now, also where some replicas have not followed yet.

        By the rule of `serve.adapter_versions`; raises as that does.
        """
        return resolve_version(model, name, version, self.versions_of(model, name))

    @cached_property
    def _replicas_by_model(self) -> dict[str, tuple[ReplicaState, ...]]:
        models = {model for state in self.replicas for model in state.models}
        return {model: tuple(state for state in self.replicas if model in state.models) for model in models}

    @cached_property
    def _ready_models(self) -> frozenset[str]:
        ready = (state for state in self.replicas if state.phase is ReplicaPhase.READY)
        return frozenset(model for state in ready for model in state.models)

    @cached_property
    def _versions(self) -> dict[tuple[str, str], tuple[AdapterVersion, ...]]:
        by_ref: dict[AdapterRef, list[AdapterVersion]] = {}
        for state in self.replicas:
            for version in state.adapters:
                by_ref.setdefault(version.ref, []).append(version)
        by_name: dict[tuple[str, str], list[AdapterVersion]] = {}
        for ref, reports in sorted(by_ref.items(), key=lambda item: (item[0].digest, item[0].label or "")):
            merged = _merged(reports, able=ref.address in self._hosts)
            by_name.setdefault((ref.model, ref.name), []).append(merged)
        return {key: tuple(versions) for key, versions in by_name.items()}

    @cached_property
    def _hosts(self) -> dict[str, tuple[ReplicaState, ...]]:
        hosts: dict[str, list[ReplicaState]] = {}
        for state in self.replicas:
            for version in state.adapters:
                if version.fault is None:
                    hosts.setdefault(version.ref.address, []).append(state)
        return {address: tuple(states) for address, states in hosts.items()}


def merge(previous: Snapshot, fresh: Snapshot) -> Snapshot:
    """What a router should believe that held `previous` and now receives `fresh`.

    While the registry rebuilds, a replica known from before stays until it is heard again, leaves, or the
    rebuild ends: trying a replica that has died meanwhile costs one attempt, forgetting one that lives costs
    requests. A snapshot that a newer one of its epoch has overtaken changes nothing.
    """
    if fresh.epoch == previous.epoch and fresh.version < previous.version:
        return previous
    if not fresh.rebuilding:
        return fresh
    heard = {state.replica_id for state in fresh.replicas}
    kept = [state for state in previous.replicas if state.replica_id not in heard | fresh.left]
    return replace(fresh, replicas=_ordered([*fresh.replicas, *kept])) if kept else fresh


class Registry:
    """The registry itself, for one event loop: no method may be called from another thread.

    A change of what can be routed where (a replica, its phase, models, adapters, residency) wakes the pollers
    at once. A change of load alone is held back for `load_delay_s`, so that the heartbeats of many replicas
    reach each router as one message. A repeated heartbeat changes nothing but the time it was heard.

    All times are seconds. `expiry_s`: a replica silent for this long is gone. `rebuild_s`: how long a new
    registry waits to have heard everyone; at least one heartbeat interval. `max_waiters` bounds the polls
    held open.
    """

    def __init__(
        self,
        expiry_s: float,
        rebuild_s: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        load_delay_s: float = 0.2,
        max_waiters: int = 256,
    ) -> None:
        self._expiry_s = expiry_s
        self._load_delay_s = load_delay_s
        self._max_waiters = max_waiters
        self._clock = clock
        self._epoch = secrets.token_hex(8)
        self._states: dict[str, ReplicaState] = {}
        self._heard: dict[str, float] = {}
        self._left: set[str] = set()
        self._rebuild_until = clock() + rebuild_s
        self._rebuilding = rebuild_s > 0
        self._version = 1
        self._routing_version = 1  # the version of the last change that was not of load alone
        self._snapshot: Snapshot | None = None
        self._changed = asyncio.Event()
        self._waiters = 0

    def heartbeat(self, state: ReplicaState) -> None:
        self._settle()
        known = self._states.get(state.replica_id)
        self._heard[state.replica_id] = self._clock()
        self._states[state.replica_id] = state
        self._left.discard(state.replica_id)
        if known != state:
            self._advance(routing=known is None or replace(known, load=state.load) != state)

    def leave(self, replica_id: str) -> None:
        """Forget a replica now, rather than `expiry_s` after its last word. Unknown ones are no error.

        The replica must not heartbeat any more: a late one would bring it back until it expires.
        """
        self._settle()
        if self._forget([replica_id]):
            self._advance(routing=True)

    def snapshot(self) -> Snapshot:
        self._settle()
        if self._snapshot is None:
            self._snapshot = Snapshot(
                epoch=self._epoch,
                version=self._version,
                rebuilding=self._rebuilding,
                replicas=_ordered(self._states.values()),
                left=frozenset(self._left),
            )
        return self._snapshot

    async def wait_for_change(self, version: int, timeout_s: float, epoch: str | None = None) -> Snapshot:
        """Long poll: the first snapshot newer than `version`, or the current one after `timeout_s`.

        `epoch` is the one that `version` was read in: if this registry has another, the answer comes at once.
        Raises `Unavailable` when `max_waiters` polls are open.
        """
        if self._waiters >= self._max_waiters:
            raise Unavailable("Too many pollers wait for the registry.", retry_after_s=timeout_s)
        self._waiters += 1
        try:
            return await self._poll(version if epoch in (None, self._epoch) else 0, timeout_s)
        finally:
            self._waiters -= 1

    async def _poll(self, version: int, timeout_s: float) -> Snapshot:
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        held_back = False
        while True:
            self._settle()
            if self._routing_version > version or now() >= deadline:
                return self.snapshot()
            if self._version > version and not held_back:
                held_back = True
                deadline = min(deadline, now() + self._load_delay_s)
            await self._next_change(min(deadline - now(), self._until_due()))

    async def _next_change(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def _until_due(self) -> float:
        """Seconds until time alone changes something: a replica's expiry, or the end of the rebuild."""
        due = min(self._heard.values(), default=float("inf")) + self._expiry_s
        if self._rebuilding:
            due = min(due, self._rebuild_until)
        return due - self._clock()

    def _settle(self) -> None:
        """Make what time has brought since the last call visible."""
        now = self._clock()
        silent = [one for one, heard in self._heard.items() if now >= heard + self._expiry_s]
        changed = self._forget(silent)
        if self._rebuilding and now >= self._rebuild_until:
            self._rebuilding = False
            self._left.clear()
            changed = True
        if changed:
            self._advance(routing=True)

    def _forget(self, replica_ids: Iterable[str]) -> bool:
        """Whether that changed anything. In a rebuild one never heard counts too: routers may know it."""
        changed = False
        for one in replica_ids:
            known = self._states.pop(one, None) is not None
            self._heard.pop(one, None)
            changed |= known or (self._rebuilding and one not in self._left)
            if self._rebuilding:
                self._left.add(one)
        return changed

    def _advance(self, *, routing: bool) -> None:
        self._version += 1
        if routing:
            self._routing_version = self._version
        self._snapshot = None
        self._changed.set()
        self._changed = asyncio.Event()


def _ordered(states: Iterable[ReplicaState]) -> tuple[ReplicaState, ...]:
    return tuple(sorted(states, key=lambda state: state.replica_id))


def _merged(reports: list[AdapterVersion], *, able: bool) -> AdapterVersion:
    """One version from what the replicas say of it. `able`: one of them can load its files."""
    current = [report for report in reports if report.current]
    newest = max(current or reports, key=lambda report: report.since)
    return replace(newest, fault=None) if able else newest
