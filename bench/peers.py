"""What the hosted-model benchmark asks besides Switchboard: the upstream itself, and other gateways in front of it.

Each gateway is installed once, below `bench/.venvs`, in the version named here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from bench.client import HOST
from bench.servers import MAX_IN_FLIGHT, ROOT, Server, StartFailed, free_ports, running, switchboard, tail
from bench.upstream import MODEL
from serve.processes import end
from serve.schemas import Json

INSTALLED = ROOT / "bench" / ".venvs"
LITELLM = "litellm[proxy]==1.106.0"
PORTKEY = "@portkey-ai/gateway@1.15.2"
# With newer ones its streams end in `TypeError: immutable` (Portkey-AI/gateway#1389).
PORTKEYS_SERVER = ("@hono/node-server@1.11.1", "@hono/node-ws@1.2.0")
KEY = "some-test-key-123456"
LOOPBACK_ONLY = {"NO_PROXY": HOST, "no_proxy": HOST}
"""The upstream is here, whatever proxy this machine uses for elsewhere."""
QUIET_LITELLM = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    # Its table of prices is in the package: nothing is fetched.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
NO_ACCESS_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"uvicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False}},
}
BIND_LOOPBACK = f"""\
const net = require("node:net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, host, ...rest) {{
  return listen.call(this, port, host ?? "{HOST}", ...rest);
}};
"""
"""Portkey's gateway has no option for its address and would listen on all of them."""


def base_url(upstream: int) -> str:
    """Where gateways find the upstream."""
    return f"http://{HOST}:{upstream}/v1"


@contextmanager
def upstream(port: int, logs: Path) -> Iterator[Server]:
    """The provider that answers at once."""
    command = [sys.executable, "-m", "bench.upstream", str(port)]
    with running("the upstream", command, {}, port, logs / "upstream.log", lambda _: "upstream") as server:
        yield server


@contextmanager
def hosted_switchboard(upstream: int, logs: Path, folder: Path) -> Iterator[Server]:
    """Switchboard with the upstream as its one model."""
    with switchboard(hosted_model(upstream), logs, folder) as server:
        yield server


def hosted_model(upstream: int) -> Json:
    """The entry of `models` for the upstream."""
    return {
        "name": MODEL,
        "provider": "openai",
        "model_id": MODEL,
        "base_url": base_url(upstream),
        "api_key": KEY,
        "resources": {"num_cpus": 0.3},
        "limits": {"max_in_flight": MAX_IN_FLIGHT},
    }


@contextmanager
def litellm(upstream: int, logs: Path, folder: Path) -> Iterator[Server]:
    """LiteLLM's proxy, one worker, without a database. Raises `StartFailed` when it cannot be installed."""
    home = _litellm_installed(logs)
    config, log_config = folder / "litellm.yaml", folder / "litellm_log.json"
    config.write_text(yaml.safe_dump(litellm_config(upstream)))
    log_config.write_text(json.dumps(NO_ACCESS_LOG))
    (port,) = free_ports(1)
    command = [str(home / "bin" / "litellm"), "--config", str(config), "--host", HOST, "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False", "--log_config", str(log_config)]
    environment = QUIET_LITELLM | LOOPBACK_ONLY
    with running("LiteLLM", command, environment, port, logs / "litellm.log", lambda _: "litellm") as server:
        yield server


def litellm_config(upstream: int) -> Json:
    """What `litellm --config` reads: no retries, no telemetry, no logs of requests."""
    parameters = {"model": f"openai/{MODEL}", "api_base": base_url(upstream), "api_key": KEY}
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "litellm_settings": {"telemetry": False, "turn_off_message_logging": True, "num_retries": 0},
        "general_settings": {
            "disable_spend_logs": True,
            "disable_error_logs": True,
            # No client needs a key, as with the others: only this machine can ask.
            "dangerously_permit_weak_or_unset_master_key": True,
        },
    }


@contextmanager
def portkey(upstream: int, logs: Path, folder: Path) -> Iterator[Server]:
    """Portkey's gateway; requests name the upstream. Raises `StartFailed` when it cannot be installed."""
    del upstream
    home = _portkey_installed(logs)
    preload = folder / "bind_loopback.cjs"
    preload.write_text(BIND_LOOPBACK)
    (port,) = free_ports(1)
    start = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    command = ["node", "--require", str(preload), str(start), f"--port={port}", "--headless"]
    environment = {"NODE_ENV": "production", **LOOPBACK_ONLY}
    with running("Portkey", command, environment, port, logs / "portkey.log", lambda _: "portkey") as server:
        yield server


def portkey_headers(upstream: int) -> dict[str, str]:
    """What tells Portkey's gateway whom to ask."""
    return {
        "authorization": f"Bearer {KEY}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": base_url(upstream),
    }


def _litellm_installed(logs: Path) -> Path:
    home = INSTALLED / "litellm"
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    commands = [[sys.executable, "-m", "venv", "--clear", str(home)], [*pip, "--progress-bar", "off", LITELLM]]
    return installed("LiteLLM", LITELLM, home, commands, logs / "litellm.log")


def _portkey_installed(logs: Path) -> Path:
    home = INSTALLED / "portkey"
    npm = ["npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "--ignore-scripts"]
    packages = [PORTKEY, *PORTKEYS_SERVER]
    return installed("Portkey", " ".join(packages), home, [[*npm, *packages]], logs / "portkey.log")


def installed(name: str, version: str, home: Path, commands: Sequence[Sequence[str]], log: Path) -> Path:
    # The path is a part of it: a virtual environment that was moved does not work.
    stamp, wanted = home / "installed", f"{version} {home}\n"
    if stamp.is_file() and stamp.read_text() == wanted:
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    for command in commands:
        _carry_out(name, command, log)
    stamp.write_text(wanted)
    return home


def _carry_out(name: str, command: Sequence[str], log: Path) -> None:
    failed = f"{name} could not be installed"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )
        except OSError as error:
            raise StartFailed(f"{failed}: {command[0]}: {error.strerror}") from None
        try:
            status = process.wait()
        finally:
            end([psutil.Process(process.pid)] if process.poll() is None else [])
    if status:
        raise StartFailed(f"{failed}; the end of its log:\n{tail(log)}")


def versions(names: Sequence[str]) -> Mapping[str, str]:
    """Of the gateways among `names` that are installed here."""
    known = {"litellm": LITELLM.rpartition("==")[2], "portkey": PORTKEY.rpartition("@")[2]}
    return {name: known[name] for name in names if name in known}
