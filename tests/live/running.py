"""A Switchboard from its start to its end, run as an operator runs it: `python -m serve.launch <config>`."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.fakes.hub import FakeHub
from tests.fakes.hub import listening as hub_listening
from tests.live import config
from tests.live.hub import hub_of
from tests.live.outside import OutsideServer, outside_server
from tests.live.processes import listening, serving, title

START_S = 300.0
STOP_S = 120.0
GONE_S = 5.0
"""After the launcher's end, for the last processes' own ends."""
POLL_S = 0.25
READY = "Switchboard is ready"


@dataclass
class Switchboard:
    """What tests know of the one that runs."""

    base_url: str
    port: int
    client_key: str
    cluster_secret: str
    outside_key: str
    hub_token: str
    args: dict[str, Any]
    folder: Path
    adapters: dict[str, Path]
    outside: OutsideServer
    hub: FakeHub
    environment: dict[str, str]
    launcher: psutil.Process
    output: Path

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be seen nowhere."""
        return self.client_key, self.cluster_secret, self.outside_key, self.hub_token

    @property
    def dashboard_port(self) -> int:
        """Of Ray's dashboard, which also takes `serve deploy`."""
        for process in self.launcher.children(recursive=True):
            if any(word.endswith("ray/dashboard/dashboard.py") for word in title(process).split()):
                return next(port for address, port in listening(process) if address == "127.0.0.1")
        raise AssertionError("Ray has no dashboard")

    @property
    def operator_environment(self) -> dict[str, str]:
        """What the launcher leaves for who commands the running cluster, Ray's token among it."""
        lines = (config.ROOT / ".switchboard" / "env").read_text().splitlines()
        return self.environment | dict(shlex.split(line)[0].split("=", 1) for line in lines)

    @property
    def ray_token(self) -> str:
        return Path(self.operator_environment["RAY_AUTH_TOKEN_PATH"]).read_text()

    async def replicas(self, deployment: str) -> dict[str, psutil.Process]:
        """The running replicas of one deployment by their ids, as Serve tells them."""
        url = f"http://127.0.0.1:{self.dashboard_port}/api/serve/applications/"
        headers = {"authorization": f"Bearer {self.ray_token}"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            response.raise_for_status()
            deployments = (await response.json())["applications"]["switchboard"]["deployments"]
        told = {
            one["replica_id"]: one["pid"] for one in deployments[deployment]["replicas"] if one["state"] == "RUNNING"
        }
        return {one: psutil.Process(pid) for one, pid in told.items() if psutil.pid_exists(pid)}

    @property
    def ray_logs(self) -> Path:
        """Everything that Ray and Serve log in this session."""
        for process in self.launcher.children(recursive=True):
            for word in title(process).split():
                if word.startswith("--session-dir="):
                    return Path(word.partition("=")[2]) / "logs"
        raise AssertionError("no process names Ray's session")

    def write_config(self, name: str, user_config: dict[str, Any]) -> Path:
        """The same config file with another `user_config`."""
        return config.write_config(self.folder / name, self.args, self.port, user_config)


@contextmanager
def switchboard(folder: Path) -> Iterator[Switchboard]:
    """Start one, and stop it as an operator would. Fails if a process of it is left then."""
    hub_token = _canary("hub")
    with outside_server() as outside, hub_listening(hub_of(config.EMBED, hub_token)) as hub:
        before = serving()
        process, one = _start(folder, outside, hub, hub_token)
        try:
            _wait_until_ready(process, one.output)
            yield one
        finally:
            known = set(one.launcher.children(recursive=True)) if process.poll() is None else set()
            status = _stop(process)
    left = psutil.wait_procs((known | serving()) - before, timeout=GONE_S)[1]
    assert not left, f"left behind: {[(one.pid, title(one)) for one in left]}"
    assert status == 0, f"the launcher ended with {status}:\n{one.output.read_text(errors='replace')[-4000:]}"


def _canary(purpose: str) -> str:
    return f"canary-{purpose}-{secrets.token_hex(12)}"


def _start(
    folder: Path, outside: OutsideServer, hub: FakeHub, hub_token: str
) -> tuple[subprocess.Popen[bytes], Switchboard]:
    port, stats_port, metrics_port = free_ports(3)
    client_key, cluster_secret, outside_key = _canary("client"), _canary("cluster"), _canary("outside")
    environment = dict(os.environ) | {
        "SWITCHBOARD_API_KEYS": client_key,
        "SWITCHBOARD_CLUSTER_SECRET": cluster_secret,
        "OUTSIDE_API_KEY": outside_key,
        "HF_TOKEN": hub_token,
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(config.CLIENT_TIMEOUT_S),
    }
    adapters = config.write_adapters(folder / "adapters")
    args = config.settings(folder, adapters, outside.url, hub.url)
    output = folder / "launch.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.launch", str(config.write_config(folder / "serve_config.yaml", args, port))],
            cwd=config.ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    return process, Switchboard(
        base_url=f"http://127.0.0.1:{port}",
        port=port,
        client_key=client_key,
        cluster_secret=cluster_secret,
        outside_key=outside_key,
        hub_token=hub_token,
        args=args,
        folder=folder,
        adapters=adapters,
        outside=outside,
        hub=hub,
        environment=environment,
        launcher=psutil.Process(process.pid),
        output=output,
    )


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _wait_until_ready(process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_S
    while READY not in (said := output.read_text(errors="replace")):
        if process.poll() is not None:
            raise AssertionError(f"the launcher ended with {process.returncode}:\n{said}")
        if time.monotonic() > deadline:
            raise AssertionError(f"not ready after {START_S:g} s:\n{said}")
        time.sleep(POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return -signal.SIGKILL
