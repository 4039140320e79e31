"""The processes of a running Switchboard, as the operating system shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psutil

TITLES = ("haproxy", "raylet", "gcs_server", "ray::", "VLLM::", "deployments.process_guard", "ray/dashboard")
"""What only such processes have in their command lines."""


def title(process: psutil.Process) -> str:
    """The command line, which Ray's and vLLM's processes rewrite; empty for one that has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def serving() -> set[psutil.Process]:
    """Every process on this machine that looks like a part of a Switchboard."""
    return {process for process in psutil.process_iter() if any(mark in title(process) for mark in TITLES)}


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def with_children(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def engine(replica: psutil.Process) -> psutil.Process:
    """The process of a replica's engine."""
    family = with_children(replica)
    engines = [child for child in family if title(child).startswith("VLLM::EngineCore")]
    assert engines, f"process {replica.pid} has no engine among {[title(one) for one in family]}"
    return engines[0]


def listening(process: psutil.Process) -> Iterator[tuple[str, int]]:
    """Address and port of each TCP socket that a process listens on."""
    for connection in process.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN:
            yield connection.laddr.ip, connection.laddr.port
