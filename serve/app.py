"""Binds the product to Ray Serve: `serve run serve_config.yaml` calls `build` with the file's `args`."""

# No `from __future__ import annotations` here: Ray looks at the annotation of `build` itself, not at its text.
from typing import Any

from ray import serve as rayserve

from deployments.autoscaling import ByLoad
from deployments.registry import RegistryDeployment
from deployments.router import Router
from deployments.served import (
    ServedAnthropicManager,
    ServedHuggingFaceManager,
    ServedLocalManager,
    ServedOpenAIManager,
)
from serve.config import Manager, Settings, load_args

MANAGERS = {
    "local": ("LocalManager", ServedLocalManager),
    "huggingface": ("HuggingFaceManager", ServedHuggingFaceManager),
    "openai": ("OpenAIManager", ServedOpenAIManager),
    "anthropic": ("AnthropicManager", ServedAnthropicManager),
}
"""Provider to deployment. A new provider is one row here."""

MAX_ONGOING = 10_000
"""Serve's own bound of requests per replica. Ours are tighter, and answer in the API's own form."""
SHUTDOWN_SLACK_S = 20.0
"""Beyond the drain: for the engine's processes to end."""
SHUTDOWN_POLL_S = 0.2
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 30.0


def build(args: dict[str, Any]) -> rayserve.Application:
    """The whole application. Raises `ConfigError`, before any replica starts, with every fault of `args` at once."""
    settings = load_args(args).with_cluster_secret()
    registry = _registry(settings)
    managers = {
        model.name: deployment
        for manager in settings.managers().values()
        if any(model.why_unavailable is None for model in manager.models)
        for deployment in [_manager(manager, settings, registry)]
        for model in manager.models
    }
    return (
        _deployment(Router)
        .options(
            name="Router",
            num_replicas=settings.router.replicas,
            max_ongoing_requests=MAX_ONGOING,
            ray_actor_options={"num_cpus": settings.router.num_cpus},
            # A router that is to go ends with its last answer, which may take as long as a manager's.
            graceful_shutdown_timeout_s=SHUTDOWN_SLACK_S + max(one.drain_s for one in settings.managers().values()),
            # The gateway's own line says more, and once is enough.
            logging_config={"enable_access_log": False},
        )
        .bind(settings.without_provider_keys(), registry, managers)
    )


def _registry(settings: Settings) -> rayserve.Application:
    return (
        _deployment(RegistryDeployment)
        .options(
            name="Registry",
            num_replicas=1,
            max_ongoing_requests=MAX_ONGOING,
            ray_actor_options={"num_cpus": settings.registry.num_cpus},
            health_check_period_s=HEALTH_PERIOD_S,
            # What is live changes here: the `user_config` of serve_config.yaml takes its place.
            user_config={},
        )
        .bind(settings.without_provider_keys())
    )


def _manager(manager: Manager, settings: Settings, registry: rayserve.Application) -> rayserve.Application:
    kind, deployment = MANAGERS[manager.provider]
    scaling = manager.autoscaling
    return (
        _deployment(deployment)
        .options(
            name=f"{kind}-{manager.name.replace('/', '--')}",
            max_ongoing_requests=MAX_ONGOING,
            graceful_shutdown_timeout_s=manager.drain_s + SHUTDOWN_SLACK_S,
            graceful_shutdown_wait_loop_s=SHUTDOWN_POLL_S,
            health_check_period_s=HEALTH_PERIOD_S,
            health_check_timeout_s=HEALTH_TIMEOUT_S,
            autoscaling_config={
                "min_replicas": scaling.min_replicas,
                "max_replicas": scaling.max_replicas,
                "initial_replicas": max(scaling.min_replicas, 0),
                "upscale_delay_s": scaling.upscale_delay_s,
                "downscale_delay_s": scaling.downscale_delay_s,
                "policy": {
                    "policy_function": ByLoad,
                    "policy_kwargs": {"target_in_flight": scaling.target_in_flight},
                },
            },
            **_resources(manager),
        )
        # Of the keys, it gets those of its own models.
        .bind(manager, settings.without_provider_keys(), registry)
    )


def _resources(manager: Manager) -> dict[str, Any]:
    """What Ray's scheduler reserves: for one process, or a bundle for each worker of a tensor-parallel engine."""
    resources = manager.resources
    if manager.workers == 1:
        options = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
        return {"ray_actor_options": options | ({"resources": dict(resources.custom)} if resources.custom else {})}
    bundle = {"CPU": resources.num_cpus, "GPU": resources.num_gpus, **resources.custom}
    return {
        # The replica itself is a guest in the first bundle; vLLM's workers take one each.
        "ray_actor_options": {"num_cpus": 0},
        "placement_group_bundles": [{name: amount for name, amount in bundle.items() if amount}] * manager.workers,
        "placement_group_strategy": "PACK",
    }


def _deployment(kind: type) -> rayserve.Deployment:
    # Called as a decorator with a class, `serve.deployment` gives a deployment; its annotation says otherwise.
    deployment: rayserve.Deployment = rayserve.deployment(kind)  # type: ignore[assignment]
    return deployment
