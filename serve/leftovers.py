"""Processes and ports that an earlier run may still hold.

HAProxy and vLLM's engine processes outlive a Ray that was killed. They are told from other programs' by what only ours
have: a HAProxy config in this checkout's own folder, or vLLM's process title with this checkout as working directory.
And they are orphans, which tells them from those of a Switchboard that is running.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

from serve.config import family_of
from serve.processes import descendants, end, title, wait


class Leftovers:
    """Of the checkout at `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Not below the checkout: a Unix socket's path holds about a hundred bytes.
        digest = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        self._haproxy = Path(tempfile.gettempdir()) / f"switchboard-{digest}"
        self._noted: dict[int, psutil.Process] = {}

    def haproxy_environment(self) -> dict[str, str]:
        """Where Serve is to keep HAProxy's files, so that its processes can be told from others'."""
        self._haproxy.mkdir(parents=True, exist_ok=True)
        return {
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(self._haproxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(self._haproxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(self._haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(self._haproxy / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(self._haproxy / "metrics.sock"),
        }

    def note_descendants(self, pid: int) -> None:
        """Remember a run's processes while their parents can still be told."""
        try:
            self._noted |= {child.pid: child for child in descendants(psutil.Process(pid))}
        except psutil.NoSuchProcess:
            return

    def end(self, patience_s: float = 0.0) -> list[str]:
        """End what is left after `patience_s`. Returns a line for each process."""
        return end(wait(self._found(), patience_s))

    def _found(self) -> list[psutil.Process]:
        found = dict(self._noted)
        for process in psutil.process_iter(["name", "cmdline"]):
            if self._is_ours(process):
                found[process.pid] = process
        return list(found.values())

    def _is_ours(self, process: psutil.Process) -> bool:
        command = process.info["cmdline"] or []
        name = process.info["name"] or ""
        try:
            if name == "haproxy" and any(str(self._haproxy) in part for part in command):
                return _is_orphan(process)
            if (" ".join(command) or name).startswith("VLLM::"):
                return _is_orphan(process) and Path(process.cwd()) == self._root
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # it has ended, or is another user's
        return False


def _is_orphan(process: psutil.Process) -> bool:
    """Whether its parent has ended. Orphans go to init, or to the nearest ancestor that asked for them.

    The latter is a "child subreaper" (prctl(2)): a desktop's systemd, a container's init, a CI job's runner. It cannot
    be told from outside, but it is above us too, and no ancestor of ours starts engines or a HAProxy.
    """
    parent = process.parent()
    return parent is None or parent.pid == 1 or parent.name() == "systemd" or parent in psutil.Process().parents()


class Listener(NamedTuple):
    """A port that something of ours is to listen on, and the setting that moves it."""

    host: str
    port: int
    setting: str


def taken_ports(listeners: Iterable[Listener]) -> list[str]:
    """A line for each port that cannot be listened on: why, and which setting moves ours."""
    lines: list[str] = []
    settings: dict[int, str] = {}
    for listener in listeners:
        other = settings.setdefault(listener.port, listener.setting)
        if other != listener.setting:
            lines.append(f"port {listener.port} is both {other} and {listener.setting}: choose another for one of them")
        elif why_not := _why_not(listener):
            lines.append(f"port {listener.port} ({listener.setting}) {why_not}")
    return lines


def _why_not(listener: Listener) -> str:
    """Empty where it can be listened on."""
    try:
        with socket.socket(family_of(listener.host)) as probe:
            # As HAProxy does: a port whose old connections are still dying is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listener.host, listener.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"is in use{_owner(listener.port)}: stop that program, or choose another port"
        # A port below 1024 is root's; an address may be another machine's, or of a kind that this one has not.
        return f"cannot be listened on at {listener.host}: {error.strerror}"
    return ""


def _owner(port: int) -> str:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            return f" by {_name(connection.pid)} (process {connection.pid})"
    return ""


def _name(pid: int) -> str:
    try:
        return title(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return "a process that has ended"
