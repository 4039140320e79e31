"""Our modules' log lines in Serve's log files, which carry the replica's name and are rotated."""

from __future__ import annotations

import logging

SERVE = "ray.serve"


def to_serve() -> None:
    """To be called once in each replica, before anything is logged."""
    handlers = logging.getLogger(SERVE).handlers
    for package in ("serve", "deployments", "adapters"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        logger.handlers = list(handlers)
        logger.propagate = False
