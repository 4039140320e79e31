"""Ends processes by their ids, politely first."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

GRACE_S = 5.0
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
        if process.is_running():
            alive |= {one.pid: one for one in [process, *descendants(process)]}
    names = [f"{title(process)} (process {process.pid})" for process in alive.values()]
    for process in alive.values():
        _signal(process, kill=False)
    _, stubborn = psutil.wait_procs(list(alive.values()), timeout=GRACE_S)
    for process in stubborn:
        _signal(process, kill=True)
    psutil.wait_procs(stubborn, timeout=GRACE_S)
    return names


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
