"""Servers that a benchmark starts and stops: Switchboard, and a bare vLLM API server with the same engine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import yaml

from bench.client import HOST
from bench.cpu import Groups
from serve.processes import descendants, end, title
from serve.schemas import Json

ROOT = Path(__file__).parents[1]
MODEL = "demo"
"""What both servers call the model."""
ROUTERS = 2
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a benchmark."""
START_S = 900.0
STOP_S = 120.0
POLL_S = 0.5
REPORT_S = 15.0
MAX_IN_FLIGHT = 4096
"""Out of the way: bare vLLM has no bound."""


class StartFailed(Exception):
    """A server did not come up; the message ends with its log's last lines."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How both engines run, by the names of `models[].engine` in `serve_config.yaml`."""

    kv_cache_gib: int = 1
    max_loras: int = 4
    """0: an engine without adapters, which is faster and leaves less to hide behind."""
    max_lora_rank: int = 8
    gpu_memory_utilization: float = 0.4
    """Two engines share a GPU."""

    def flags(self) -> list[str]:
        """The same as vLLM's command line has it, with what Switchboard always sets."""
        flags = ["--enable-prompt-tokens-details", "--gpu-memory-utilization", str(self.gpu_memory_utilization)]
        if self.max_loras:
            flags += ["--enable-lora", "--max-loras", str(self.max_loras), "--max-cpu-loras", str(self.max_loras)]
            flags += ["--max-lora-rank", str(self.max_lora_rank)]
        if not on_cpu():
            flags += ["--kv-cache-memory-bytes", str(self.kv_cache_gib * 1024**3)]
        # Neither server keeps an access log, which costs the API server's process time for each request.
        return [*flags, "--disable-fastapi-docs", "--disable-uvicorn-access-log"]

    def environment(self) -> dict[str, str]:
        """What vLLM's CPU build takes from the environment."""
        if not on_cpu():
            return {}
        return {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib)}


def on_cpu() -> bool:
    """Whether vLLM's CPU build is installed."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class Server:
    """A server that was started here, with all its processes. `group_of` sorts them by their titles."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], port: int, log: Path, group_of: Callable[[str], str]
    ) -> None:
        self.name = name
        self.port = port
        self._process = process
        self._log = log
        self._group_of = group_of
        self._noted: dict[int, psutil.Process] = {}

    def wait_until(self, path: str, say: Callable[[str], None], patience_s: float = START_S) -> None:
        """Return once `path` answers 200. Raises `StartFailed`."""
        began = time.monotonic()
        next_report = began + REPORT_S
        while not self._answers(path):
            now = time.monotonic()
            if self._process.poll() is not None or now - began > patience_s:
                raise StartFailed(f"{self.name} did not start; the end of its log:\n{tail(self._log)}")
            if now >= next_report:
                say(f"waiting for {self.name} ({now - began:.0f} s)")
                next_report = now + REPORT_S
            time.sleep(POLL_S)

    def groups(self) -> Groups:
        """Its processes as they are now, sorted."""
        found: dict[str, list[psutil.Process]] = {}
        for process in self._note():
            found.setdefault(self._group_of(_command(process)), []).append(process)
        return found

    def stop(self) -> None:
        """Stop it in good order, then end what is left. Raises `RuntimeError` if that lives on."""
        self._note()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        _, late = psutil.wait_procs(list(self._noted.values()), timeout=10.0)
        end(late)
        if left := [title(process) for process in late if process.is_running()]:
            raise RuntimeError(f"{self.name} left running: {', '.join(left)}")

    def _note(self) -> list[psutil.Process]:
        """Every process of its, remembered while their parents can still be told."""
        try:
            root = psutil.Process(self._process.pid)
        except psutil.NoSuchProcess:
            return []
        now = [root, *descendants(root)]
        self._noted |= {process.pid: process for process in now}
        return now

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def all_groups(servers: Sequence[Server]) -> Groups:
    """Every process that has a part in the run."""
    groups: dict[str, Sequence[psutil.Process]] = {"client": [psutil.Process(os.getpid())]}
    for server in servers:
        groups |= server.groups()
    return groups


@contextlib.contextmanager
def bare_vllm(model: Path, engine: Engine, logs: Path) -> Iterator[Server]:
    """VLLM's own API server. Yields while it is still starting; stops it at the end."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", HOST, "--port", str(port)]
    command += ["--model", str(model), "--served-model-name", MODEL, *engine.flags()]
    with running("bare vLLM", command, engine.environment(), port, logs / "bare.log", bare_group) as server:
        yield server


@contextlib.contextmanager
def switchboard(model: Json, logs: Path, folder: Path) -> Iterator[Server]:
    """Switchboard as `make serve` starts it, the model behind two routers. Keeps its files in `folder`."""
    port, stats, metrics = free_ports(3)
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config(model, port, folder / "state.db")))
    environment = {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # A Ray of its own, also where another one runs.
        "RAY_ADDRESS": "local",
    }
    command = [sys.executable, "-m", "serve.launch", str(path)]
    with running("Switchboard", command, environment, port, logs / "switchboard.log", switchboard_group) as server:
        yield server


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    log: Path,
    group_of: Callable[[str], str],
) -> Iterator[Server]:
    """Yields while it is still starting; stops it at the end, and lets no signal disturb that or what follows."""
    with log.open("wb") as output:
        # A group of its own: Ctrl-C reaches the benchmark alone, which then stops every server in good order. But no
        # session of its own, for then the processors would be shared between sessions and not between processes.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    server = Server(name, process, port, log, group_of)
    try:
        yield server
    finally:
        for signum in ENDING:
            signal.signal(signum, signal.SIG_IGN)
        server.stop()


def hear_signals() -> None:
    """Each of `ENDING` as Ctrl-C, also where a shell started this process in the background, deaf to Ctrl-C."""
    for signum in ENDING:
        signal.signal(signum, signal.default_int_handler)


def local_model(model: Path, engine: Engine) -> Json:
    """The entry of `models` for one that runs here."""
    return {
        "name": MODEL,
        "provider": "local",
        "model_id": str(model),
        "engine": asdict(engine),
        "resources": {"num_cpus": 0.5} if on_cpu() else {"num_cpus": 0.5, "num_gpus": 0.5},
        "limits": {"max_in_flight": MAX_IN_FLIGHT},
    }


def config(model: Json, port: int, store: Path) -> Json:
    """What `serve_config.yaml` holds: one replica of the model, two routers, `store` for the sessions."""
    args = {
        "models": [model],
        "limits": {"max_in_flight": MAX_IN_FLIGHT},
        "sessions": {"store": f"sqlite:///{store}"},
        "router": {"replicas": ROUTERS, "num_cpus": 0.2},
    }
    application = {"name": "switchboard", "import_path": "serve.app:build", "route_prefix": "/", "args": args}
    return {"http_options": {"host": HOST, "port": port}, "applications": [application]}


def bare_group(command: str) -> str:
    """Which part of a bare server a process is, by its command line or title."""
    return "bare: engine" if command.startswith("VLLM::") else "bare: API server"


def switchboard_group(command: str) -> str:
    """Which part of Switchboard a process is, by its command line or title."""
    if command.startswith("VLLM::"):
        return "switchboard: engine"
    if command.startswith("ray::ServeReplica:"):
        for name, group in (("Router", "routers"), ("Manager-", "manager")):
            if name in command:
                return f"switchboard: {group}"
    if "haproxy" in command.partition(" ")[0]:
        return "switchboard: HAProxy"
    return "switchboard: Ray and registry"


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all held until the last is found, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def tail(log: Path, lines: int = 30) -> str:
    """The log's last lines."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
