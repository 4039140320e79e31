"""What every benchmark's command does: hear signals, measure at the front of the queue, tell how it ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from bench.servers import ENDING, ROOT, StartFailed, hear_signals

OUT = ROOT / "bench" / "out"
INTERRUPTED = 130

Result = TypeVar("Result")


def run(benchmark: Callable[[], int]) -> int:
    """The exit status: the benchmark's own, or what says that a server did not start or somebody ended it."""
    hear_signals()
    OUT.mkdir(exist_ok=True)
    try:
        return benchmark()
    except StartFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted; every server is stopped")
        return INTERRUPTED


def measured(measuring: Coroutine[Any, Any, Result]) -> Result:
    """What it returns. A signal stops it and raises `KeyboardInterrupt`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(measuring))


async def _until_signal(measuring: Coroutine[Any, Any, Result]) -> Result:
    _take_the_cpu_first()
    # A signal's exception inside a callback of the loop would end that callback alone, so the loop itself listens.
    task = asyncio.create_task(measuring)
    for signum in ENDING:
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _take_the_cpu_first() -> None:
    """Be scheduled as soon as something arrives, so that the times are the servers' and not this process's own waits.

    An engine on a CPU spins while it works; on few cores a client that takes its turn sees all tokens arrive at once.
    Needs root; without it the client takes its turn.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def say(line: str) -> None:
    """A line on how far it is."""
    print(f"[bench] {line}", flush=True)


def numbers(text: str) -> tuple[int, ...]:
    """An option's list of numbers, as in `1,8,32`."""
    return tuple(dict.fromkeys(positive(part) for part in text.split(",")))


def positive(text: str) -> int:
    """An option's number."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return number
