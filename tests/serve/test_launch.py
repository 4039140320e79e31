"""What the launcher does without Ray: refuse and say why before it starts, stop when it is told to."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from typing_extensions import override

from serve import launch
from serve.config import HttpBinding, load_file
from serve.leftovers import Leftovers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another checkout than this one, so that a Switchboard that runs here is left alone."""
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "serve.env").write_text((ROOT / "cluster" / "serve.env").read_text())
    (tmp_path / "tmp").mkdir()
    (tmp_path / "models" / "demo").mkdir(parents=True)
    (tmp_path / "models" / "demo" / "config.json").write_text("{}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    monkeypatch.setattr(launch, "STATE", tmp_path / ".switchboard")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


Write = Callable[..., Path]


@pytest.fixture
def write(checkout: Path) -> Write:
    """A `serve_config.yaml` with these `args`."""

    def write(port: int = 8000, host: str = "127.0.0.1", **sections: object) -> Path:
        args = {"models": [{"name": "demo", "provider": "local", "model_id": "models/demo"}]} | sections
        application = {"name": "switchboard", "route_prefix": "/", "import_path": "serve.app:build", "args": args}
        config = {"http_options": {"host": host, "port": port}, "applications": [application]}
        path = checkout / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be started")

    monkeypatch.setattr(launch, "_run", refuse)


def test_every_fault_of_a_config_is_told_at_once(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        bots={"helper": {"model": "nobody"}},
        limits={"body_mib": -1, "typo": 1},
        auth={"keys": "${SWITCHBOARD_NOT_SET}"},
    )
    assert launch.main(path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for place in ("bots.helper.model", "limits.body_mib", "auth.keys", "limits.typo"):
        assert place in err
    assert "Traceback" not in err


def test_an_open_door_is_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(write(host="0.0.0.0")) == 2
    assert "auth.keys" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "", "[", "models: x"])
def test_a_file_that_is_no_config(checkout: Path, text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkout / "broken.yaml"
    if text is not None:
        path.write_text(text)
    assert launch.main(path) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "which", ["http_options.port", "RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT"]
)
def test_a_taken_port_is_told(
    checkout: Path, write: Write, which: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = _free_ports(3)
    names = ("http_options.port", "RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
    ports = dict(zip(names, free, strict=True))
    for name in names[1:]:
        monkeypatch.setenv(name, str(ports[name]))
    with socket.create_server(("127.0.0.1", ports[which])):
        assert launch.main(write(ports[names[0]])) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "Cannot start:"
    assert len(err.splitlines()) == 2
    assert f"port {ports[which]} ({which}) is in use by" in err
    # Perhaps a Switchboard has it, whose token and secret lie there.
    assert not (checkout / ".switchboard" / "env").exists()


def test_a_port_that_haproxy_wants_for_itself_is_told(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(write(8404)) == 2
    assert "port 8404 is both http_options.port and RAY_SERVE_HAPROXY_STATS_PORT" in capsys.readouterr().err


def test_a_second_launch_from_one_checkout_is_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(_free_ports(1)[0])
    with launch._only_one() as first:
        assert first
        assert launch.main(path) == 2
    assert "already" in capsys.readouterr().err
    with launch._only_one() as again:
        assert again


def _free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def test_on_a_running_cluster_the_ports_are_that_clusters(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(AssertionError, match="nothing is to be"):
        launch.main(write(server.getsockname()[1]))


def test_a_serve_that_ends_is_never_called_ready(
    write: Write, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, binding = load_file(write(_free_ports(1)[0]))
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
        assert launch._wait_until_ready(ended, settings, binding, checkout / "serve.log") is False
    assert "ready" not in capsys.readouterr().out


def test_it_waits_longer_than_any_replica_which_can_then_say_why(
    write: Write, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [
        {"name": name, "provider": "local", "model_id": "models/demo", "timeouts": {"load_s": load_s}}
        for name, load_s in (("demo", 100), ("other", 300))
    ]
    settings, binding = load_file(write(_free_ports(1)[0], models=models))
    (checkout / "serve.log").write_text("")
    clock = Clock()
    monkeypatch.setattr(launch, "time", clock)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as running, pytest.raises(SystemExit) as ended:
        launch._wait_until_ready(running, settings, binding, checkout / "serve.log")
    assert ended.value.code == 1
    assert launch.START_S + 300 < clock.now < launch.START_S + 301
    assert "Serve has given up" in capsys.readouterr().err


class Clock:
    """Time that passes while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# The environment of what is started.


def environment(checkout: Path) -> dict[str, str]:
    return launch._environment(Leftovers(checkout))


def test_serves_settings_come_from_one_file(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_MAXCONN", "7")
    found = environment(checkout)
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert found["RAY_SERVE_HAPROXY_MAXCONN"] == "7"  # what is set already stays
    assert found["PYTHONPATH"].startswith(str(checkout))


def test_secrets_are_fresh_and_for_this_user_only(checkout: Path) -> None:
    first, second = environment(checkout), environment(checkout)
    assert first["SWITCHBOARD_CLUSTER_SECRET"] != second["SWITCHBOARD_CLUSTER_SECRET"]
    for name in ("env", "ray-token"):
        assert (checkout / ".switchboard" / name).stat().st_mode & 0o777 == 0o600
    assert second["SWITCHBOARD_CLUSTER_SECRET"] in (checkout / ".switchboard" / "env").read_text()


# Waiting and telling.


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, {"status": "ready", "waiting_for": []}, ""),
        (503, {"status": "waiting", "waiting_for": ["demo", "other"]}, "loading demo, other"),
        (503, {}, "starting the routers"),
        (404, None, "starting the routers"),
    ],
)
def test_what_is_still_missing(status: int, body: object, state: str) -> None:
    port = _answers_once(status, b"no JSON" if body is None else json.dumps(body).encode())
    assert launch._readiness(HttpBinding("127.0.0.1", port)) == state


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"])
def test_it_asks_where_serve_listens(host: str) -> None:
    assert launch._readiness(HttpBinding(host, _answers_once(200, b"{}", host))) == ""


def test_a_proxy_of_the_environment_is_not_asked(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{_free_ports(1)[0]}")
    monkeypatch.setattr("urllib.request._opener", None)  # an earlier test may have made it without these
    assert launch._readiness(HttpBinding("127.0.0.1", _answers_once(200, b"{}"))) == ""
    (checkout / ".switchboard").mkdir()
    (checkout / ".switchboard" / "ray-token").write_text("token")
    failed = json.dumps({"applications": {"switchboard": {"status": "DEPLOY_FAILED"}}}).encode()
    assert launch._gave_up(f"View the dashboard at \x1b[1mhttp://127.0.0.1:{_answers_once(200, failed)}")


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80/v1/"), ("::1", "'http://[::1]:80/v1/"), ("::", "'http://[::1]")],
)
def test_the_command_that_it_prints_asks_there_too(
    write: Write, capsys: pytest.CaptureFixture[str], host: str, url: str
) -> None:
    settings, _ = load_file(write(), env={})
    launch._say_how_to_ask(settings, HttpBinding(host, 80))
    assert f"curl {url}" in capsys.readouterr().out


def _answers_once(status: int, body: bytes, host: str = "127.0.0.1") -> int:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    server = Server((host, 0), Handler)

    def serve() -> None:
        with server:
            server.handle_request()

    Thread(target=serve, daemon=True).start()
    return int(server.server_port)


def test_why_a_model_does_not_start_is_found_in_the_log() -> None:
    log = (
        "starting\n\x1b[36m(ServeReplica:switchboard:LocalManager-demo pid=7)\x1b[0m "
        "Switchboard could not start demo: ValueError: no weights\n"
    )
    assert launch._failures(log) == {"could not start demo: ValueError: no weights"}


def test_nobody_answers_yet() -> None:
    assert launch._readiness(HttpBinding("127.0.0.1", _free_ports(1)[0])) == "starting Ray and the routers"


STOPPED_TWICE = """
import os, signal
from serve import launch

launch._on_stop_signals(launch._stop)
try:
    os.kill(os.getpid(), signal.SIGTERM)
except launch.Stopped:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    print("cleaned up")
"""

SERVE = """
import signal, sys, time

signal.signal(signal.SIGINT, lambda *_: sys.exit())
print("up", flush=True)
time.sleep(60)
"""

KILLED = f"""
import subprocess, sys
from serve import launch

serve = [sys.executable, "-c", {SERVE!r}]
subprocess.run(serve, process_group=0, preexec_fn=launch._stop_with_parent)
"""


def test_a_second_signal_does_not_interrupt_the_cleaning_up() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED_TWICE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "cleaned up\n"), done.stderr


def test_serve_stops_when_the_launcher_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "up\n"
        launcher.kill()
        # Both hold the pipe's other end: it closes when both are gone.
        assert launcher.stdout.read() == ""
