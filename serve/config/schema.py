"""Every section of `args` beside `models`: adapters, bots, who may call, and the bounds of the gateway."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, model_validator

from serve.config.base import Bool, Float, Int, Label, Mib, Name, Names, Params, Seconds, Section, Text, Unit

MIB = 1024**2
MIN_SECRET_CHARS = 16


class AdapterConfig(Section):
    """One named behaviour of one model: a directory of LoRA weights as peft writes it, or versions of it."""

    name: Name = Field(description="Called as `model:name`. Adapters of different models may share a name.")
    model: Name = Field(description="The model that it was trained for.")
    source: Text | None = Field(None, description="Directory of the only version. Either this or `versions`.")
    versions: Annotated[Mapping[Label, Text], Field(max_length=64)] | None = Field(
        None, description='Directory of each version by its label (`"v2": adapters/sales-2`).', min_length=1
    )
    current: Label | None = Field(
        None, description="The label that `model:name` means. May be left out when there is one version."
    )
    preload: Bool = Field(False, description="Load the current version before a replica counts as ready.")

    @property
    def sources(self) -> Mapping[str | None, str]:
        """Directory of each version by label; the label of a `source` is None."""
        if self.source is not None:
            return {None: self.source}
        return {label: path for label, path in (self.versions or {}).items()}

    @property
    def current_label(self) -> str | None:
        """The label of the current version; None for a `source`."""
        return self.current if self.versions is None or self.current else next(iter(self.versions))

    @model_validator(mode="after")
    def _one_way_to_its_files(self) -> AdapterConfig:
        if (self.source is None) == (self.versions is None):
            raise ValueError("needs either source or versions, and not both")
        if self.versions is None:
            if self.current is not None:
                raise ValueError("current has no use without versions")
        elif self.current is None and len(self.versions) > 1:
            raise ValueError("current must say which of the versions is meant by default")
        elif self.current is not None and self.current not in self.versions:
            raise ValueError(f"current names '{self.current}', which is not among the versions")
        return self


class BotConfig(Section):
    """A bot: a model with its adapter, callable as a model and as a session's `bot_type`. Changes live."""

    model: Name = Field(description="The model that answers.")
    adapters: Annotated[tuple[Name, ...], Field(max_length=64)] = Field(
        (), description="Names of its adapters, at most one for each model."
    )
    default_params: Params = Field({}, description="As a model's, and before them.")
    fallback_models: Names | None = Field(
        None,
        validation_alias=AliasChoices("fallback_models", "fallback_model"),
        description="Models to ask in this order when its own cannot answer, with its adapter for each, if it has one. "
        "Null: those of its model; empty: none.",
    )


def _key_digest(key: Any) -> str:
    """SHA-256 of one client key, hexadecimal: all that is kept of it."""
    if not isinstance(key, str):
        raise ValueError("should be text; quote it")
    if len(key) < MIN_SECRET_CHARS:
        raise ValueError(f"is shorter than {MIN_SECRET_CHARS} characters")
    if not re.fullmatch(r"[!-~]{1,512}", key):
        raise ValueError("must be at most 512 visible ASCII characters")
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def _split_keys(keys: Any) -> Any:
    """A text of keys parted by commas, or a list of such texts, as a list of single keys."""
    if not isinstance(keys, (str, list)):
        return keys
    parts: list[Any] = []
    for entry in [keys] if isinstance(keys, str) else keys:
        parts.extend(entry.split(",") if isinstance(entry, str) else [entry])
    stripped = [part.strip() if isinstance(part, str) else part for part in parts]
    return [part for part in stripped if part != ""]


class Auth(Section):
    """Who may call. Without a key everybody may, and the server listens on loopback only."""

    key_digests: Annotated[
        tuple[Annotated[str, BeforeValidator(_key_digest)], ...],
        BeforeValidator(_split_keys),
        Field(max_length=10_000),
    ] = Field(
        (),
        alias="keys",
        repr=False,
        exclude=True,
        description="Client keys: a list, or one text with commas between (`${SWITCHBOARD_API_KEYS:-}`). At "
        f"least {MIN_SECRET_CHARS} characters each. Only their SHA-256 digests are kept in memory.",
    )
    admin_key_digests: Annotated[
        tuple[Annotated[str, BeforeValidator(_key_digest)], ...],
        BeforeValidator(_split_keys),
        Field(max_length=100),
    ] = Field(
        (),
        alias="admin_keys",
        repr=False,
        exclude=True,
        description="Keys for `/admin/…`, in the same form. No client key opens these pages.",
    )


def _secret(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"([!-~]{16,512})?", secret.get_secret_value()):
        raise ValueError("must be 16 to 512 visible ASCII characters")
    return secret


def _host(host: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", host):
        return host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError("must be an IP address or a host name, without a port") from None


class ClusterConfig(Section):
    """What routers and manager replicas share."""

    secret: Annotated[SecretStr, AfterValidator(_secret)] = Field(
        SecretStr(""),
        description="Shown by routers to manager replicas, which refuse everybody else; a reference: "
        "`${SWITCHBOARD_CLUSTER_SECRET:-}`. Empty: a random one at every start.",
    )
    replica_host: Annotated[Text, AfterValidator(_host)] = Field(
        "127.0.0.1",
        description="Address that manager replicas listen on, as routers reach it. `node`: the one that the "
        "replica's node has in the Ray cluster, for clusters of several nodes.",
    )


class Limits(Section):
    """Bounds of each router replica. Change live."""

    body_mib: Mib = Field(10.0, gt=0, le=1024, description="Longest request body; a longer one gets 413.")
    answer_mib: Mib = Field(
        64.0, gt=0, le=1024, description="Longest answer that is not streamed; a longer one becomes 502."
    )
    max_in_flight: Annotated[Int, Unit("requests")] = Field(
        256, ge=1, le=65_536, description="Requests that a router relays at once; the next one gets 429."
    )

    @property
    def body_bytes(self) -> int:
        return int(self.body_mib * MIB)

    @property
    def answer_bytes(self) -> int:
        return int(self.answer_mib * MIB)


class Timeouts(Section):
    """How long a router waits, for the client and for a replica."""

    body_s: Seconds = Field(30.0, gt=0, le=3600, description="The client sends its whole request body.")
    connect_s: Seconds = Field(2.0, gt=0, le=60, description="Connecting to a replica.")
    first_byte_s: Seconds = Field(120.0, gt=0, le=3600, description="From the request sent to an answer's first byte.")
    idle_s: Seconds = Field(60.0, gt=0, le=3600, description="Between two pieces of an answer.")
    keepalive_s: Seconds | None = Field(
        15.0,
        gt=0,
        le=3600,
        description="A stream that has begun is sent a comment after each silence of this length, so that nobody on "
        "the way hangs up; null: none. It gives the model no more time than `idle_s`.",
    )
    total_s: Seconds = Field(600.0, gt=0, le=86_400, description="A request from end to end, attempts included.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Timeouts:
        longest = max(self.connect_s, self.first_byte_s, self.idle_s)
        if longest > self.total_s:
            raise ValueError(f"total_s ({self.total_s:g}) is below another of them ({longest:g})")
        return self


def _store_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if re.fullmatch(r"sqlite:///(?!:memory:|file:|\?|$)[^\x00-\x1f]+", text):
        return url
    if re.fullmatch(r"(postgres|postgresql|postgresql\+psycopg)://[^\s\x00-\x1f]+", text):
        return url
    raise ValueError("must be sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE")


class FallbackConfig(Section):
    """What happens when a model cannot answer, before the first byte of its answer is out."""

    max_attempts: Int = Field(4, ge=1, le=16, description="Replicas and providers that one request may be sent to.")
    max_wait_s: Seconds = Field(
        2.0,
        ge=0,
        le=60,
        description="A provider that asks for so short a pause (`Retry-After`) is asked once more when there is no "
        "other model to turn to.",
    )
    on_content_filter: Bool = Field(False, description="Turn to the next model when one's content filter refuses.")
    failures: Int = Field(
        5, ge=1, le=1000, description="Failures in a row after which a model is left out for a while (circuit breaker)."
    )
    open_s: Seconds = Field(
        15.0, gt=0, le=3600, description="For how long; then one request tries it. Doubles with each failed trial."
    )
    max_open_s: Seconds = Field(240.0, gt=0, le=86_400, description="Up to this.")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> FallbackConfig:
        if self.max_open_s < self.open_s:
            raise ValueError(f"max_open_s ({self.max_open_s:g}) is below open_s ({self.open_s:g})")
        return self


class SessionsConfig(Section):
    """Conversations and where they are kept."""

    store: Annotated[SecretStr, AfterValidator(_store_url)] = Field(
        SecretStr("sqlite:///.switchboard/state.db"),
        description="SQLAlchemy URL: `sqlite:///FILE`, or `postgresql+psycopg://user:${PASSWORD}@host/db` "
        "(the password percent-encoded). Kept out of logs as a secret.",
    )
    store_timeout_s: Seconds = Field(5.0, gt=0, le=300, description="The store answers within this time, or 503.")
    store_connections: Int = Field(4, ge=1, le=256, description="Connections to the store, per process.")
    store_max_pending: Int = Field(1024, ge=1, le=65_536, description="Calls to the store at once, per process.")
    ttl_s: Seconds = Field(86_400.0, gt=0, le=31_536_000, description="A session ends this long after it began.")
    max_metadata_bytes: Annotated[Int, Unit("bytes")] = Field(
        16_384,
        ge=2,
        le=61_440,
        description="A session's `metadata` as JSON, in ASCII. The request that brings it has 64 KiB at most.",
    )


class RegistryConfig(Section):
    """What is live, as replicas tell it."""

    heartbeat_s: Seconds = Field(1.0, gt=0, le=60, description="How often a replica reports.")
    expiry_s: Seconds = Field(5.0, gt=0, le=600, description="A replica silent for this long counts as gone.")
    num_cpus: Annotated[Float, Unit("CPUs")] = Field(0.1, ge=0, le=64, description="Reserved from Ray's scheduler.")

    @model_validator(mode="after")
    def _may_miss_one(self) -> RegistryConfig:
        if self.expiry_s < 2 * self.heartbeat_s:
            raise ValueError(f"expiry_s ({self.expiry_s:g}) must be at least twice heartbeat_s ({self.heartbeat_s:g})")
        return self


class RouterConfig(Section):
    """The replicas that clients' requests come in by."""

    replicas: Int = Field(2, ge=1, le=256, description="Router replicas.")
    num_cpus: Annotated[Float, Unit("CPUs")] = Field(
        0.2, ge=0, le=64, description="Reserved from Ray's scheduler by each."
    )


class AdapterStorage(Section):
    """How replicas look after adapters' files."""

    cache_dir: Text = Field(".switchboard/adapters", description="Where replicas keep their copies of adapters' files.")
    max_adapter_mib: Mib = Field(4096.0, gt=0, le=1_048_576, description="Largest weights file of an adapter.")
    refresh_s: Seconds = Field(30.0, gt=0, le=86_400, description="How often sources are looked at for changed files.")
    negative_cache_s: Seconds = Field(
        30.0, ge=0, le=3600, description="How long an adapter that could not be loaded is not tried again."
    )

    @property
    def max_adapter_bytes(self) -> int:
        return int(self.max_adapter_mib * MIB)
