"""Every error that Switchboard raises on purpose.

    SwitchboardError
    ├── ConfigError                     the operator's: refused at start, all faults at once
    ├── RequestError                    the caller's
    │   ├── InvalidRequest        400
    │   ├── NotAuthenticated      401
    │   ├── NotFound              404
    │   ├── MethodNotAllowed      405
    │   ├── RequestTimedOut       408
    │   ├── BodyTooLarge          413
    │   ├── UnsupportedEncoding   415
    │   ├── AdapterUnusable       424   the adapter exists and cannot be loaded: its own fault
    │   └── TooManyRequests       429   carries retry_after_s
    └── ServiceError                    ours
        ├── EngineFailed          500   never worth a retry by the caller
        ├── UpstreamFailed        502
        ├── Unavailable           503   carries retry_after_s
        └── DeadlineExceeded      504

Every class survives pickling (Ray carries them between processes), which is why all arguments are positional in
`args` and `__reduce__` rebuilds from them. Messages of `SwitchboardError`s are written for the caller: they hold no
path, address, key or upstream text.
"""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override

CONTEXT_LENGTH = "context_length_exceeded"
CONTENT_FILTER = "content_filter"
REFUSED_KEY = "provider_refused_credentials"
PROVIDER_NOT_FOUND = "provider_not_found"
PROVIDER_REFUSED = "provider_refused_request"
"""A wrong `model_id` or `base_url`, and refusals for other reasons. No outages: one request may bring them about."""
NO_CREDIT = "insufficient_quota"
"""A 429 that no pause will mend."""
AT_CAPACITY = "at_capacity"
"""A 429 by our own bound on a replica's requests in flight, which says nothing about a provider."""
NOT_CARRIED = frozenset({"unsupported_parameter", "unsupported_endpoint"})
"""Codes of requests that one provider cannot be asked, and another may."""

NOT_STARTED = "Switchboard could not start"
"""How the line begins by which a replica says why it cannot serve its models."""
PROGRESS = "Switchboard is at work:"
"""How the line begins by which a replica says how far a long step has come."""


def first_line(error: BaseException) -> str:
    """What an error says, on one line of bounded length, for a person who runs the system."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:1000] if text else type(error).__name__


class SwitchboardError(Exception):
    """Root of the tree.

    `param` names the offending field of the request, where there is one. `code` is the machine-readable reason that
    OpenAI's error body carries as a string (`model_not_found`).
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param, code, retry_after_s)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args

    @override
    def __str__(self) -> str:
        return self.message


class ConfigError(SwitchboardError):
    """The configuration is wrong. `faults` lists every one as `path: what is wrong`."""

    def __init__(self, source: str, faults: tuple[str, ...]) -> None:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"{source} is not a valid configuration:\n{lines}")
        self.source = source
        self.faults = faults
        self.args = (source, faults)


class RequestError(SwitchboardError):
    """The caller can mend it."""

    status = 400


class InvalidRequest(RequestError):
    status = 400


class NotAuthenticated(RequestError):
    status = 401
    default_code = "invalid_api_key"


class NotFound(RequestError):
    status = 404


class MethodNotAllowed(RequestError):
    """`allow` lists the methods that the path does take, as the `Allow` header wants them."""

    status = 405
    default_code = "method_not_allowed"

    def __init__(self, message: str, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow
        self.args = (message, allow)


class RequestTimedOut(RequestError):
    status = 408
    default_code = "request_timeout"


class BodyTooLarge(RequestError):
    status = 413
    default_code = "request_too_large"


class UnsupportedEncoding(RequestError):
    status = 415
    default_code = "unsupported_content_encoding"


class AdapterUnusable(RequestError):
    """The adapter is known and cannot be loaded, through a fault of its own files."""

    status = 424
    default_code = "adapter_unusable"


class TooManyRequests(RequestError):
    status = 429
    default_code = "rate_limit_exceeded"


class ServiceError(SwitchboardError):
    """The caller did nothing wrong."""

    status = 500
    default_code = "internal_error"


class EngineFailed(ServiceError):
    """The engine broke on this request. Not retried further: such a request may break the next engine too."""

    status = 500
    default_code = "engine_error"


class UpstreamFailed(ServiceError):
    status = 502
    default_code = "upstream_error"


class Unavailable(ServiceError):
    status = 503
    default_code = "service_unavailable"


class DeadlineExceeded(ServiceError):
    status = 504
    default_code = "deadline_exceeded"
