"""`make serve`: checks, starts `serve run`, waits until every model answers, says how to ask, and cleans up after.

    python -m serve.launch serve_config.yaml

It adds nothing to what `serve run` serves. It refuses a wrong config or a taken port before anything starts, ends
what a crash left behind, shows progress, and on Ctrl-C or SIGTERM leaves no process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from serve.config import HttpBinding, Settings, load_file
from serve.errors import NOT_STARTED, PROGRESS, ConfigError
from serve.leftovers import Leftovers, Listener, taken_ports

ROOT = Path(__file__).parents[1]
STATE = ROOT / ".switchboard"
POLL_S = 0.5
REPORT_S = 10.0
START_S = 120.0
"""How long Ray and Serve have to start, before the first replica begins to count its `load_s`."""
STOP_S = 90.0
"""How long Serve has to shut down by itself."""
PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>."""
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks what runs on this machine, whatever proxy the environment names for the rest of the world."""


class Stopped(Exception):
    """A signal asked for the end."""


def main(config: Path) -> int:
    """Returns the process's exit status: 0 after an asked-for stop, 1 if Serve failed, 2 for what must be mended."""
    try:
        settings, binding = load_file(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    with _only_one() as alone:
        if not alone:
            print("Cannot start: a Switchboard runs from this checkout already; stop it first", file=sys.stderr)
            return 2
        return _prepare_and_run(config, settings, binding)


def _prepare_and_run(config: Path, settings: Settings, binding: HttpBinding) -> int:
    leftovers = Leftovers(ROOT)
    for line in leftovers.end():
        _say(f"ended what an earlier run left behind: {line}")
    if "RAY_ADDRESS" not in os.environ and (taken := taken_ports(_listeners(binding, _serve_environment()))):
        print("Cannot start:\n" + "\n".join(f"  - {line}" for line in taken), file=sys.stderr)
        return 2
    # Only now: it takes the place of what a Switchboard that is running left for `serve deploy`.
    return _run(config, settings, binding, _environment(leftovers), leftovers)


def _run(
    config: Path,
    settings: Settings,
    binding: HttpBinding,
    environment: Mapping[str, str],
    leftovers: Leftovers,
) -> int:
    _on_stop_signals(_stop)
    log_path = STATE / "serve.log"
    with log_path.open("wb") as log:
        # A group of its own: Ctrl-C reaches this process alone, which then stops Serve in good order. But no session of
        # its own: Linux shares the processors between sessions, and some kernels let one starve beside busy engines.
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.serve.scripts", "run", str(config)],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_stop_with_parent,
        )
        try:
            _say(f"starting Ray and Serve (log: {log_path.relative_to(ROOT)})")
            if _wait_until_ready(process, settings, binding, log_path):
                _say_how_to_ask(settings, binding)
                process.wait()
        except Stopped:
            _say("stopping")
            return 0
        finally:
            _shut_down(process, leftovers)
        print(f"Serve ended by itself; the end of its log:\n{_tail(log_path)}", file=sys.stderr)
        return 1


def _wait_until_ready(process: subprocess.Popen[bytes], settings: Settings, binding: HttpBinding, log: Path) -> bool:
    """True once `/ready` says so, False if Serve ended instead. Raises `SystemExit` after telling why it never will."""
    started = time.monotonic()
    bound = START_S + max(model.timeouts.load_s for model in settings.models)
    reported = ""
    failures: set[str] = set()
    progress = ""
    next_report = started
    while process.poll() is None:
        state = _readiness(binding)
        if state == "":
            _say(f"ready after {time.monotonic() - started:.0f} s")
            return True
        said = log.read_text(errors="replace")
        for line in _failures(said) - failures:
            failures.add(line)
            _say(f"{line}\n[switchboard] more in {log.relative_to(ROOT)}; Serve tries again")
        if (latest := _latest(said)) != progress:
            progress = latest
            _say(progress)
        now = time.monotonic()
        if state != reported or now >= next_report:
            _say(f"{state} ({now - started:.0f} s)")
            reported, next_report = state, now + REPORT_S
        if now - started > bound or _gave_up(said):
            why = "\n".join(sorted(failures)) or f"the end of its log:\n{_tail(log)}"
            print(f"Serve has given up: {why}", file=sys.stderr)
            raise SystemExit(1)
        time.sleep(POLL_S)
    return False


def _failures(log: str) -> set[str]:
    """What replicas that cannot start have said."""
    said = (line.partition(NOT_STARTED) for line in log.splitlines())
    return {f"could not start{rest}" for _, found, rest in said if found}


def _latest(log: str) -> str:
    """What a replica that does something long said last."""
    said = [line.partition(PROGRESS)[2].strip() for line in log.splitlines()]
    return next((line for line in reversed(said) if line), "")


def _gave_up(log: str) -> bool:
    """Whether Serve has stopped trying to start a deployment. Ray's dashboard knows, whose address Ray logs."""
    dashboard = re.search(r"dashboard at \S*(http://[\d.]+:\d+)", log)
    if dashboard is None:
        return False
    request = urllib.request.Request(f"{dashboard[1]}/api/serve/applications/")
    request.add_header("authorization", f"Bearer {(STATE / 'ray-token').read_text()}")
    try:
        with HTTP.open(request, timeout=2) as answer:
            applications: Mapping[str, Mapping[str, object]] = json.load(answer)["applications"]
    except (OSError, ValueError, KeyError):
        return False  # not up yet, or another cluster's, which has another token
    return any(application["status"] == "DEPLOY_FAILED" for application in applications.values())


def _readiness(binding: HttpBinding) -> str:
    """What is still missing; empty when nothing is."""
    try:
        with HTTP.open(f"{binding.url}/ready", timeout=2):
            return ""
    except urllib.error.HTTPError as error:
        try:
            waiting = json.load(error).get("waiting_for", [])
        except ValueError:
            waiting = []
        return f"loading {', '.join(waiting)}" if waiting else "starting the routers"
    except OSError:
        return "starting Ray and the routers"


def _say_how_to_ask(settings: Settings, binding: HttpBinding) -> None:
    model = next(iter(settings.bots), settings.models[0].name)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "When are you open?"}]})
    key = " -H 'authorization: Bearer YOUR_KEY'" if settings.auth.key_digests else ""
    url = shlex.quote(f"{binding.url}/v1/chat/completions")  # some shells take an IPv6 address's brackets for a pattern
    print(
        "\nSwitchboard is ready. Ask it something:\n\n"
        f"curl {url}{key} -H 'content-type: application/json' -d '{body}'"
        "\n\nCtrl-C stops it.",
        flush=True,
    )


def _shut_down(process: subprocess.Popen[bytes], leftovers: Leftovers) -> None:
    """Let Serve stop in good order, then end whatever did not."""
    _on_stop_signals(signal.SIG_IGN)
    leftovers.note_descendants(process.pid)
    if process.poll() is None:
        # `serve run` shuts Serve down on SIGINT only.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for line in leftovers.end(patience_s=10.0):
        _say(f"ended what Serve left behind: {line}")
    _say("stopped")


@contextlib.contextmanager
def _only_one() -> Iterator[bool]:
    """Whether no other launcher runs from this checkout, and then none until the block's end, however that comes."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _serve_environment() -> dict[str, str]:
    """`cluster/serve.env`, where this process's environment does not say otherwise."""
    return dict(_assignments(ROOT / "cluster" / "serve.env")) | os.environ


def _environment(leftovers: Leftovers) -> dict[str, str]:
    """This process's environment, with what `cluster/serve.env` and one run's secrets add to it."""
    STATE.mkdir(exist_ok=True)
    added = dict(_assignments(ROOT / "cluster" / "serve.env")) | leftovers.haproxy_environment() | _secrets()
    environment = added | os.environ
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    _write_private(STATE / "env", "".join(f"{name}={shlex.quote(environment[name])}\n" for name in sorted(added)))
    return environment


def _secrets() -> dict[str, str]:
    """Ray's token, without which nobody may command the cluster; and what routers show to replicas.

    Both stay the same while Serve runs, so that `serve deploy` can change it without a gap.
    """
    token = STATE / "ray-token"
    _write_private(token, secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "SWITCHBOARD_CLUSTER_SECRET": secrets.token_urlsafe(32),
    }


def _write_private(path: Path, text: str) -> None:
    """For this user's eyes only, from the file's first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _assignments(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name, value


def _listeners(binding: HttpBinding, environment: Mapping[str, str]) -> list[Listener]:
    listeners = [Listener(binding.host, binding.port, "http_options.port")]
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for setting, default in (("RAY_SERVE_HAPROXY_STATS_PORT", 8404), ("RAY_SERVE_HAPROXY_METRICS_PORT", 9101)):
            listeners.append(Listener("0.0.0.0", int(environment.get(setting, default)), setting))
    return listeners


def _tail(path: Path, lines: int = 30) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _stop_with_parent() -> None:
    """In the child: if this process is killed, the kernel sends `serve run` the SIGINT that it cannot send any more."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _stop(signum: int, frame: FrameType | None) -> None:
    # The first is enough: a second one must not interrupt the cleaning up.
    _on_stop_signals(signal.SIG_IGN)
    raise Stopped


def _on_stop_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, handler)


def _say(line: str) -> None:
    print(f"[switchboard] {line}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m serve.launch serve_config.yaml", file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(main(Path(sys.argv[1]).resolve()))
