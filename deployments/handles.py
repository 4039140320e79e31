"""What a call over a Serve handle raises when the other side is not there to answer it."""

from __future__ import annotations

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

UNANSWERED: tuple[type[Exception], ...] = (RayError, RayServeException, TimeoutError)
"""Serve's own exceptions, as for a deployment that failed to deploy, are no `RayError`s."""
