"""The values that cross a boundary: between processes, or between layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
"""A parsed JSON object."""


class Dialect(StrEnum):
    """The API that a request was made in, and so the shape of its errors."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class ReplicaPhase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """One immutable version of an adapter of one model.

    `digest` is the first 12 hex digits of the SHA-256 over the adapter's files; `label` the operator's own name for
    the version, if any.
    """

    model: str
    name: str
    digest: str
    label: str | None = None

    @property
    def address(self) -> str:
        """`model:name@digest`: the name by which the engine, and a client, knows exactly this version."""
        return f"{self.model}:{self.name}@{self.digest}"

    @property
    def short(self) -> str:
        """`name@digest`, as `x-switchboard-adapter` shows it."""
        return f"{self.name}@{self.digest}"


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """What a replica advertises of one adapter version: it could load it (or says why not)."""

    ref: AdapterRef
    current: bool
    """Whether `model:name` without a version means this one."""
    since: float
    """When it became known, seconds since the epoch: the newest `current` wins between replicas."""
    fault: str | None = None
    """Why it cannot be loaded, written for the caller; None when it can."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a replica is.

    `in_flight` counts requests that the replica has accepted and not finished; `running` and `waiting` are the
    engine's own; `kv_cache` is the used share of the KV cache, 0 to 1.
    """

    in_flight: int = 0
    running: int = 0
    waiting: int = 0
    kv_cache: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One heartbeat: what a manager replica is and has now."""

    replica_id: str
    url: str
    """`http://host:port`, without a trailing slash."""
    phase: ReplicaPhase
    models: tuple[str, ...]
    """Models that this replica answers for."""
    capacity: int
    """How many requests it accepts at once."""
    load: Load = field(default_factory=Load)
    adapters: tuple[AdapterVersion, ...] = ()
    resident: frozenset[str] = frozenset()
    """Addresses (`AdapterRef.address`) of the adapters in the engine now."""


@dataclass(frozen=True, slots=True)
class Target:
    """One model, with one adapter version or none, that could answer a request."""

    model: str
    adapter: AdapterRef | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation's context. Times are seconds since the epoch."""

    id: str
    bot_type: str
    created_at: float
    expires_at: float
    metadata: dict[str, str] = field(default_factory=dict)
    replica_id: str | None = None
    """The replica that its turns go to while it is healthy."""
