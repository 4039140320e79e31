"""Ends processes by their ids, politely first."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil

POLL_S = 0.05
GRACE_S = 2.0
"""How long a process has between SIGTERM and SIGKILL."""


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Children, their children and so on; none for a process that has ended."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def end(processes: Iterable[psutil.Process]) -> list[str]:
    """End each process and its descendants. Returns `name (process id)` for each that was still alive.

    psutil compares start times, so an id that was handed on to another program meanwhile is left alone.
    """
    alive: dict[int, psutil.Process] = {}
    for process in processes:
        if _runs(process):
            alive |= {one.pid: one for one in [process, *descendants(process)]}
    names = [f"{title(process)} (process {process.pid})" for process in alive.values()]
    for process in alive.values():
        _signal(process, kill=False)
    stubborn = wait(alive.values(), GRACE_S)
    for process in stubborn:
        _signal(process, kill=True)
    wait(stubborn, GRACE_S)
    return names


def wait(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until all have ended, `timeout_s` at most. Returns those that have not.

    Unlike `psutil.wait_procs` it counts a zombie as ended: its parent, which is not us, may never ask for it.
    """
    deadline = time.monotonic() + timeout_s
    left = [process for process in processes if _runs(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [process for process in left if _runs(process)]
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def title(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return "a process that has ended"


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return
