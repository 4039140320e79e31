"""The processes of a running Switchboard, as the operating system shows them."""

from __future__ import annotations

from collections.abc import Iterator

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


def replicas(launcher: psutil.Process, deployment: str) -> list[psutil.Process]:
    """The replicas of one deployment of ours."""
    wanted = f"ray::ServeReplica:switchboard:{deployment}"
    return [process for process in launcher.children(recursive=True) if _title_is(process, wanted)]


def _title_is(process: psutil.Process, wanted: str) -> bool:
    # Ray adds the method that runs: `….initialize_and_get_metadata`.
    return title(process).partition(".")[0] == wanted


def replica_id(replica: psutil.Process) -> str:
    """Serve's name for a replica, which its log file has in its own name."""
    prefix = "replica_switchboard_"
    for file in replica.open_files():
        name = file.path.rpartition("/")[2]
        if name.startswith(prefix):
            return name.removesuffix(".log").rpartition("_")[2]
    raise AssertionError(f"the process {replica.pid} has no replica's log file open")


def engine(replica: psutil.Process) -> psutil.Process:
    """The process of a replica's engine."""
    return next(child for child in replica.children(recursive=True) if title(child).startswith("VLLM::EngineCore"))


def listening(process: psutil.Process) -> Iterator[tuple[str, int]]:
    """Address and port of each TCP socket that a process listens on."""
    for connection in process.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN:
            yield connection.laddr.ip, connection.laddr.port
