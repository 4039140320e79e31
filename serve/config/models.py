"""The `models` section: what each model is, how its engine runs, and what its replicas may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, JsonValue, SecretStr, model_validator
from typing_extensions import override

from serve.config.base import (
    Bool,
    Float,
    Gib,
    Int,
    JsonMapping,
    Name,
    Names,
    Params,
    Seconds,
    Section,
    Text,
    Tokens,
    Unit,
)

_ENGINE_KEYS_OF_OURS = frozenset(
    {
        "model",
        "served_model_name",
        "enable_lora",
        "lora_modules",
        "kv_cache_memory_bytes",
        "enable_auto_tool_choice",
        "trust_remote_code",
        "allowed_media_domains",
        "distributed_executor_backend",
        "disable_log_stats",
        "api_server_count",
        "host",
        "port",
        "uds",
        "root_path",
        "api_key",
        "hf_token",
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_ca_certs",
        "middleware",
        "disable_fastapi_docs",
    }
)


def _vllm_options(extra: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    for key in extra:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,127}", key):
            raise ValueError("takes vLLM's option names as Python has them, with underscores (max_num_batched_tokens)")
        if key in EngineConfig.model_fields:
            raise ValueError(f"must not set {key}, which is a key of engine itself")
        if key in _ENGINE_KEYS_OF_OURS:
            raise ValueError(f"must not set {key}, which Switchboard sets")
    return extra


class EngineConfig(Section):
    """The model's vLLM engine. What is null is vLLM's own choice."""

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = Field(
        "auto", description="Type of weights and activations; `auto` takes the model's own."
    )
    max_model_len: Tokens | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Longest prompt and answer together; null: the model's own bound.",
    )
    max_num_seqs: Int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Sequences that the engine works on at once; null: vLLM's own choice.",
    )
    kv_cache_gib: Annotated[Int, Unit("GiB")] | None = Field(
        None,
        ge=1,
        le=16_384,
        description="Memory for the KV cache, per worker; null: a share of the GPU's memory, or on a CPU "
        "as much as vLLM chooses.",
    )
    gpu_memory_utilization: Float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of a GPU's memory to take where `kv_cache_gib` is null; null: vLLM's choice.",
    )
    max_loras: Int = Field(
        0, ge=0, le=1024, description="Adapters that one batch may mix; 0: the model takes no adapters."
    )
    max_cpu_loras: Int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Adapters resident in the engine, in and out of a batch; null: `max_loras`.",
    )
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(
        16, description="Highest rank of an adapter. Memory is taken for it in every slot."
    )
    tensor_parallel_size: Int = Field(1, ge=1, le=1024, description="Workers (GPUs) that one engine is spread over.")
    enforce_eager: Bool = Field(False, description="Compile nothing: a slower engine on GPUs that uses less memory.")
    runner: Literal["generate", "pooling"] = Field("generate", description="`pooling` serves embeddings.")
    tool_call_parser: Text | None = Field(
        None, description="vLLM's parser of tool calls for this model family (`hermes`); null: no tool calls."
    )
    reasoning_parser: Text | None = Field(
        None,
        description="vLLM's parser of reasoning for this model family (`qwen3`); null: none is split off.",
    )
    chat_template: Text | None = Field(
        None, description="Path of a Jinja chat template; null: the one that comes with the model."
    )
    media_hosts: Annotated[tuple[Text, ...], Field(max_length=100)] = Field(
        (),
        description="Hosts that images and other media may be fetched from by URL; empty: none, so that no request can "
        "make the engine ask addresses of your own network. Data URLs need no host.",
    )
    allow_prompt_logprobs: Bool = Field(
        False,
        description="Let requests ask for `prompt_logprobs`, or `echo` with `logprobs`. Off, since vLLM "
        "0.32's CPU engine with adapters dies of such a request when it shares a batch with another.",
    )
    extra: Annotated[JsonMapping, AfterValidator(_vllm_options)] = Field(
        {}, description="Further engine options, handed to vLLM as they are (`quantization: awq`)."
    )

    @property
    def adapter_slots(self) -> int:
        """How many adapters the engine holds at once; 0 when it takes none."""
        return self.max_cpu_loras or self.max_loras

    @model_validator(mode="after")
    def _slots_fit(self) -> EngineConfig:
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras ({self.max_cpu_loras}) is below max_loras ({self.max_loras})")
        if self.max_cpu_loras is not None and not self.max_loras:
            raise ValueError("max_cpu_loras has no use while max_loras is 0")
        return self


def _custom_resources(custom: Mapping[str, float]) -> Mapping[str, float]:
    if builtin := sorted({"CPU", "GPU", "memory", "object_store_memory"} & custom.keys()):
        raise ValueError(f"must not hold {', '.join(builtin)}, which Ray has keys of its own for")
    return custom


def _whole_above_one(amount: float) -> float:
    if amount > 1 and not amount.is_integer():
        raise ValueError("must be a fraction up to 1, or a whole number")
    return amount


class Resources(Section):
    """What one replica reserves from Ray's scheduler: bookkeeping, not a limit.

    With `tensor_parallel_size` above 1 it is what each worker reserves, one bundle of a placement group each.
    """

    num_cpus: Annotated[Float, Unit("CPUs")] = Field(1.0, ge=0, le=1024, description="Fractions allowed (0.5).")
    num_gpus: Annotated[Float, Unit("GPUs"), AfterValidator(_whole_above_one)] = Field(
        0.0, ge=0, le=64, description="A fraction lets replicas share a GPU."
    )
    custom: Annotated[
        Mapping[Text, Annotated[Float, Field(gt=0), AfterValidator(_whole_above_one)]],
        AfterValidator(_custom_resources),
    ] = Field({}, description="Ray's custom resources (`accelerator_type:H100: 0.001`).")


class Autoscaling(Section):
    """How many replicas a model has."""

    min_replicas: Int = Field(
        1,
        ge=0,
        le=1000,
        description="0: none while nobody asks. A request then wakes one, and gets 503 until it is there.",
    )
    max_replicas: Int = Field(1, ge=1, le=1000, description="Most replicas.")
    target_in_flight: Annotated[Float, Unit("requests")] = Field(
        8.0, gt=0, le=65_536, description="Requests in flight per replica that scaling aims at."
    )
    upscale_delay_s: Seconds = Field(
        5.0, ge=0, le=86_400, description="How long load must be high before a replica more."
    )
    downscale_delay_s: Seconds = Field(
        300.0, ge=0, le=86_400, description="How long load must be low before a replica less."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})")
        return self


class ModelLimits(Section):
    """Bounds per replica. Change live."""

    max_in_flight: Annotated[Int, Unit("requests")] = Field(
        64, ge=1, le=65_536, description="Running and waiting together; the next one gets 429."
    )
    max_adapter_loads: Int = Field(2, ge=1, le=256, description="Adapters being loaded at the same time.")
    max_adapter_waiting: Annotated[Int, Unit("requests")] = Field(
        1024, ge=1, le=65_536, description="Waiting for an adapter; the next one gets 503."
    )


class ModelTimeouts(Section):
    """How long a replica waits for its own work, and the routers for it."""

    load_s: Seconds = Field(900.0, gt=0, le=86_400, description="Start of the engine, model loading included.")
    adapter_wait_s: Seconds = Field(
        10.0,
        gt=0,
        le=3600,
        description="A request waits for a slot when every adapter in the engine is in use.",
    )
    drain_s: Seconds = Field(
        120.0, ge=0, le=86_400, description="A replica that is to go lets its requests run on for this long."
    )
    first_byte_s: Seconds | None = Field(
        None, gt=0, le=3600, description="As `timeouts.first_byte_s`, for this model; null: as there."
    )
    idle_s: Seconds | None = Field(None, gt=0, le=3600, description="As `timeouts.idle_s`, for this model.")
    provider_connect_s: Seconds = Field(
        5.0,
        gt=0,
        le=60,
        description="Connecting to a hosted provider, or to the server at a `base_url`; of no use to an engine.",
    )


class ModelBase(Section):
    """What every provider's models have."""

    name: Name = Field(description="What clients ask for as `model`.")
    default_params: Params = Field(
        {},
        description="Request parameters (`temperature: 0.2`), filled in where a request leaves them out. Change live.",
    )
    model_id: Text = Field(description="What the model is called where it comes from.")
    limits: ModelLimits = ModelLimits()
    fallback_models: Names = Field(
        (),
        validation_alias=AliasChoices("fallback_models", "fallback_model"),
        description="Models to ask in this one's place, in this order, when it cannot answer. One may be given as "
        "`fallback_model`. A request that names an adapter is never answered without it.",
    )
    manager: Name | None = Field(
        None,
        description="Models that name the same manager share its replicas and their model cache. They may "
        "set `resources`, `autoscaling` and `model_cache_gib` once, or alike. Null: the model's own name.",
    )
    resources: Resources = Resources()
    autoscaling: Autoscaling = Autoscaling()
    timeouts: ModelTimeouts = ModelTimeouts()
    model_cache_gib: Gib | None = Field(
        None,
        gt=0,
        le=65_536,
        description="Bound of a replica's model cache, weights and KV caches together; what was used longest ago goes "
        "first. Null: none, all models of the manager stay in memory.",
    )

    @property
    def manager_name(self) -> str:
        return self.manager or self.name

    @property
    def is_remote(self) -> bool:
        """Whether it runs on machines that are not ours."""
        return True

    @property
    def adapter_slots(self) -> int:
        """How many LoRA adapters it holds at once."""
        return 0

    @property
    def workers(self) -> int:
        """Bundles of `resources` that a replica needs."""
        return 1

    @property
    def why_no_adapters(self) -> str | None:
        """Why it takes no LoRA adapters, if it does not."""
        return "another server runs it"

    def without_keys(self) -> Self:
        """For a process that is not its manager."""
        secrets: dict[str, object] = {name: None for name in ("api_key", "token") if name in type(self).model_fields}
        return self.model_copy(update=secrets)

    @property
    def why_unavailable(self) -> str | None:
        """Why it cannot be asked at all, as far as the configuration tells."""
        return None


class EngineModel(ModelBase):
    """A model that runs in an engine of ours."""

    engine: EngineConfig = EngineConfig()

    @property
    @override
    def is_remote(self) -> bool:
        return False

    @property
    @override
    def adapter_slots(self) -> int:
        return self.engine.adapter_slots

    @property
    @override
    def workers(self) -> int:
        return self.engine.tensor_parallel_size

    @property
    @override
    def why_no_adapters(self) -> str | None:
        return None if self.engine.max_loras else "its engine.max_loras is 0"


def http_url(url: str) -> str:
    if re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise ValueError("must be a URL without spaces, backslashes and control characters")
    try:
        parts = urlsplit(url)
        address = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:  # a port that is no number, half an IPv6 address
        raise ValueError("must be an http:// or https:// URL with a host") from None
    if not address:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must hold no user, query or fragment; a key belongs into api_key")
    return url.rstrip("/")


class LocalModel(EngineModel):
    """A self-hosted model: an engine of ours, or an outside OpenAI-compatible server at `base_url`."""

    provider: Literal["local"] = Field(description="Who serves the model.")
    model_id: Text = Field(
        description="Directory of the model on disk; with `base_url`, the name that the server knows it by."
    )
    base_url: Annotated[Text, AfterValidator(http_url)] | None = Field(
        None,
        description="An OpenAI-compatible server (Ollama, llama.cpp, another vLLM) in an engine's place, "
        "written as OpenAI's SDK takes it: `http://127.0.0.1:11434/v1`.",
    )
    api_key: Annotated[SecretStr, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="The key for `base_url`, as a reference: `${NAME}`."
    )

    @property
    @override
    def is_remote(self) -> bool:
        return self.base_url is not None

    @property
    @override
    def why_no_adapters(self) -> str | None:
        return super().why_no_adapters if self.base_url is None else "an outside server runs it (base_url)"

    @model_validator(mode="after")
    def _engine_or_server(self) -> LocalModel:
        if self.base_url is None and self.api_key is not None:
            raise ValueError("api_key has no use without base_url")
        if self.base_url is not None and "engine" in self.model_fields_set:
            raise ValueError("engine has no use with base_url: another server runs the model")
        return self
