"""The one catalogue of metric names. Labels hold configured names and statuses only, never what a client sent."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# The router's.
REQUESTS = Counter(
    "switchboard_requests_total",
    "Requests answered, by API endpoint, model asked for and status. 499: the client went away.",
    ["endpoint", "model", "status"],
)
REQUEST_SECONDS = Histogram(
    "switchboard_request_seconds",
    "From a request's first byte to the last byte of its answer.",
    ["endpoint", "model"],
    buckets=_SECONDS,
)
FIRST_BYTE_SECONDS = Histogram(
    "switchboard_first_byte_seconds",
    "From a request's first byte to the first byte of its answer's body.",
    ["endpoint", "model"],
    buckets=_SECONDS,
)
ATTEMPTS = Counter(
    "switchboard_attempts_total",
    "Requests sent to a replica, by model and outcome (ok, status_<n>, connect, reset, malformed, empty, too_large,"
    " timeout, deadline, client_gone).",
    ["model", "outcome"],
)
BREAKER_STATE = Gauge(
    "switchboard_breaker_state",
    "1 for the state that a model's circuit breaker is in (closed, half-open, open), once it has failed.",
    ["model", "state"],
)
IN_FLIGHT = Gauge("switchboard_in_flight", "Requests that this router has accepted and not finished.")
REGISTRY_AGE_SECONDS = Gauge(
    "switchboard_registry_snapshot_age_seconds", "Since this router last heard from the registry."
)
LIVE_REPLICAS = Gauge("switchboard_live_replicas", "Replicas that are ready, by model.", ["model"])

# The manager's.
MANAGER_IN_FLIGHT = Gauge("switchboard_manager_in_flight", "Requests that this replica has accepted and not finished.")
MANAGER_REFUSED = Counter(
    "switchboard_manager_refused_total", "Requests refused before the model saw them.", ["reason"]
)
TOKENS = Counter(
    "switchboard_tokens_total",
    "Tokens that hosted models and servers at a `base_url` used, by model, kind (input, output, cached_input: a part of"
    " input) and source (reported by the provider; estimated from what came of a stream that did not tell).",
    ["model", "kind", "source"],
)
ADAPTER_LOADS = Counter("switchboard_adapter_loads_total", "Adapters loaded into the engine.", ["model", "adapter"])
ADAPTER_EVICTIONS = Counter(
    "switchboard_adapter_evictions_total",
    "Adapters taken out of the engine to make room.",
    ["model", "adapter"],
)
ADAPTER_FAILURES = Counter(
    "switchboard_adapter_load_failures_total",
    "Adapters that the engine could not load.",
    ["model", "adapter"],
)
ADAPTER_LOAD_SECONDS = Histogram(
    "switchboard_adapter_load_seconds",
    "Time to load one adapter into the engine.",
    ["model"],
    buckets=_SECONDS,
)
