"""The `serve_config.yaml` of the Switchboard under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.live import hub
from tests.live.files import copied, misfit, opposite

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
DEMO = MODELS / "demo"
EMBED = MODELS / "demo-embed"
ADAPTERS = MODELS / "demo-adapters"

SLOTS = 2
"""Adapters that an engine holds: fewer than there are."""
CAPACITY = 24
"""Requests in flight that each replica of the demo model accepts."""
OUTSIDE_CAPACITY = 2
CLIENT_TIMEOUT_S = 10
"""HAProxy's patience with a silent client."""
BODY_TIMEOUT_S = 3
"""The gateway's patience with a body that does not come."""
REFRESH_S = 1


def context_tokens() -> int:
    """Tokens that the demo model's prompt and answer may have together."""
    config = json.loads((DEMO / "config.json").read_text())
    return int(config["max_position_embeddings"])


def write_adapters(folder: Path) -> dict[str, Path]:
    """All adapters by name. `changing` is to be changed by a test, `broken` cannot be loaded."""
    support, sales = ADAPTERS / "support", ADAPTERS / "sales"
    return {
        "support": support,
        "sales": sales,
        "anti-support": opposite(support, folder / "anti-support"),
        "anti-sales": opposite(sales, folder / "anti-sales"),
        "changing": copied(support, folder / "changing"),
        "broken": misfit(support, folder / "broken"),
    }


def settings(folder: Path, adapters: dict[str, Path], outside_url: str, hub_url: str) -> dict[str, Any]:
    """The `args`."""
    return {
        "models": [_demo(), *([_embed(folder, hub_url)] if EMBED.exists() else []), _outside(outside_url)],
        "adapters": [
            {"name": name, "model": "demo", "source": str(path), "preload": name in ("support", "sales")}
            for name, path in adapters.items()
        ],
        "bots": {
            "support": {"model": "demo", "adapters": ["support"]},
            "sales": {"model": "demo", "adapters": ["sales"]},
            "plain": {"model": "demo"},
            "brief": {"model": "demo", "adapters": ["support"], "default_params": {"max_tokens": 3}},
        },
        "auth": {"keys": "${SWITCHBOARD_API_KEYS}"},
        "cluster": {"secret": "${SWITCHBOARD_CLUSTER_SECRET}"},
        "limits": {"body_mib": 1},
        # Short where a test waits for their end, long enough for two cores that also load an engine.
        "timeouts": {"body_s": BODY_TIMEOUT_S, "first_byte_s": 30, "idle_s": 30, "total_s": 120},
        "sessions": {"store": f"sqlite:///{folder}/state.db"},
        "adapter_storage": {"cache_dir": str(folder / "cache"), "refresh_s": REFRESH_S, "negative_cache_s": 1},
        "router": {"replicas": 2, "num_cpus": 0.2},
    }


def _demo() -> dict[str, Any]:
    return {
        "name": "demo",
        "provider": "local",
        "model_id": str(DEMO),
        "default_params": {"temperature": 0},
        "limits": {"max_in_flight": CAPACITY},
        "engine": {
            # Greedy answers are compared between batches of different sizes: no rounding may tip one over.
            "dtype": "float32",
            "kv_cache_gib": 1,
            "max_loras": 2,
            "max_cpu_loras": SLOTS,
            "max_lora_rank": 8,
            "tool_call_parser": "hermes",
            # Between JSON's tokens a model this small writes white space without end.
            "extra": {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}},
        },
        "resources": {"num_cpus": 0.3},
        "autoscaling": {"min_replicas": 2, "max_replicas": 2},
        "timeouts": {"load_s": 300, "drain_s": 10},
    }


def _embed(folder: Path, hub_url: str) -> dict[str, Any]:
    return {
        "name": "demo-embed",
        "provider": "huggingface",
        "model_id": hub.REPOSITORY,
        "revision": hub.REVISION,
        "token": "${HF_TOKEN}",
        "hub": hub_url,
        "cache_dir": str(folder / "hub"),
        "engine": {"runner": "pooling", "kv_cache_gib": 1},
        "resources": {"num_cpus": 0.3},
        "timeouts": {"load_s": 300},
    }


def _outside(url: str) -> dict[str, Any]:
    return {
        "name": "outside",
        "provider": "local",
        "model_id": "outside-model",
        "base_url": url,
        "api_key": "${OUTSIDE_API_KEY}",
        "limits": {"max_in_flight": OUTSIDE_CAPACITY},
        "resources": {"num_cpus": 0.1},
        "timeouts": {"load_s": 300},
    }


def write_config(path: Path, args: dict[str, Any], port: int, user_config: dict[str, Any] | None = None) -> Path:
    """The whole file, at `path`; `user_config` is what changes live."""
    path.write_text(
        yaml.safe_dump(
            {
                "http_options": {"host": "127.0.0.1", "port": port},
                "applications": [
                    {
                        "name": "switchboard",
                        "import_path": "serve.app:build",
                        "route_prefix": "/",
                        "args": args,
                        "deployments": [{"name": "Registry", "user_config": user_config or {}}],
                    }
                ],
            },
            sort_keys=False,
        )
    )
    return path
