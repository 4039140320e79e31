"""Our modules' log lines in Serve's log files, which carry the replica's name and are rotated."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from serve.errors import NOT_STARTED, first_line

SERVE = "ray.serve"


def to_serve() -> None:
    """To be called once in each replica, before anything is logged."""
    handlers = logging.getLogger(SERVE).handlers
    for package in ("serve", "deployments", "adapters"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        logger.handlers = list(handlers)
        logger.propagate = False


def to_operator(line: str) -> None:
    """A line for whoever runs `serve run`: Ray carries it there, and the launcher repeats it.

    Straight to the file descriptor: in a replica Serve has put its own log in the place of `print` and `sys.stderr`.
    """
    os.write(2, f"{line}\n".encode())


@contextmanager
def saying_why_not(what: str) -> Iterator[None]:
    """Tells the operator why `what` does not start: Serve tries again, and logs why where few would look."""
    try:
        yield
    except Exception as error:
        to_operator(f"{NOT_STARTED} {what}: {first_line(error)}")
        raise
