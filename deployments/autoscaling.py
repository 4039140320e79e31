"""How many replicas a manager's deployment should have.

Requests reach a manager by HTTP, so Serve's own count of ongoing requests stays at zero. Each replica reports its load
through `record_autoscaling_stats` instead, and this policy turns it into a number of replicas. Delays and bounds are
Serve's own (`upscale_delay_s`, `downscale_delay_s`, `min_replicas`, `max_replicas`).

Source: `ray.serve.config.AutoscalingContext` (Ray 2.60).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

LOAD_METRIC = "switchboard_in_flight"


class ByLoad:
    """`target_in_flight` requests for each replica."""

    def __init__(self, target_in_flight: float) -> None:
        self._target = target_in_flight

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas, and the policy's state (none)."""
        reported = (ctx.aggregated_metrics or {}).get(LOAD_METRIC, {})
        # Calls over a handle are waiting for a first replica when the deployment is scaled to zero.
        wanted = math.ceil((sum(reported.values()) + ctx.total_num_requests) / self._target)
        bounded = min(max(wanted, ctx.capacity_adjusted_min_replicas), ctx.capacity_adjusted_max_replicas)
        return bounded, {}
