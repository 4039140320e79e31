"""Processes and ports of an earlier run, told from everybody else's."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typing_extensions import override

from serve.leftovers import Leftovers, Listener, taken_ports
from serve.processes import end, wait

STARTS_AN_ORPHAN = """
import subprocess, sys
executable, folder, *command = sys.argv[1:]
quiet = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
print(subprocess.Popen(command, executable=executable, cwd=folder, **quiet).pid)
"""


class Programs:
    """Starts programs that only look like HAProxy and vLLM: each is `tail -f`, under another name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tail = shutil.which("tail") or ""
        self.started: list[psutil.Process] = []
        self.children: list[subprocess.Popen[bytes]] = []

    def orphan(self, name: str, file: str, cwd: Path) -> psutil.Process:
        """A process called `name` that has `file` open, and whose parent has ended."""
        starter = [sys.executable, "-c", STARTS_AN_ORPHAN, self._named(name), str(cwd), name, "-f", file]
        return self._running(int(subprocess.run(starter, capture_output=True, check=True).stdout))

    def child(self, name: str, file: str, cwd: Path) -> psutil.Process:
        """The same with a parent that lives."""
        quiet = subprocess.DEVNULL
        child = subprocess.Popen([name, "-f", file], executable=self._named(name), cwd=cwd, stdin=quiet, stdout=quiet)
        self.children.append(child)
        return self._running(child.pid)

    def _named(self, name: str) -> str:
        path = self._folder / name
        if not path.exists():
            path.symlink_to(self._tail)
        return str(path)

    def _running(self, pid: int) -> psutil.Process:
        process = psutil.Process(pid)
        self.started.append(process)
        return process


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    folder = tmp_path / "programs"
    folder.mkdir()
    programs = Programs(folder)
    yield programs
    end(programs.started)
    for child in programs.children:
        child.wait()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a folder for temporary files of its own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def haproxy_config(root: Path) -> str:
    path = Path(Leftovers(root).haproxy_environment()["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"])
    path.touch()
    return str(path)


ENGINE, NOTHING = "VLLM::EngineCore", "/dev/null"


def test_a_haproxy_of_this_checkout_is_ended(root: Path, programs: Programs) -> None:
    ours = programs.orphan("haproxy", haproxy_config(root), cwd=root)
    assert Leftovers(root).end() == [f"haproxy (process {ours.pid})"]
    assert wait([ours], 0) == []
    assert Leftovers(root).end() == []


def test_an_engine_of_this_checkout_is_ended(root: Path, programs: Programs) -> None:
    ours = programs.orphan(ENGINE, NOTHING, cwd=root)
    assert Leftovers(root).end() == [f"{ENGINE} (process {ours.pid})"]
    assert wait([ours], 0) == []


def test_others_are_left_alone(root: Path, programs: Programs, tmp_path: Path) -> None:
    others = [
        programs.orphan("haproxy", NOTHING, cwd=root),  # another program's HAProxy
        programs.orphan("haproxy", haproxy_config(tmp_path), cwd=root),  # another checkout's
        programs.orphan("less", haproxy_config(root), cwd=root),  # somebody reads our config
        programs.orphan(ENGINE, NOTHING, cwd=tmp_path),  # another checkout's engine
        programs.child("haproxy", haproxy_config(root), cwd=root),  # of a Switchboard that is running
        programs.child(ENGINE, NOTHING, cwd=root),
    ]
    assert Leftovers(root).end() == []
    assert wait(others, 0) == others


@pytest.fixture
def run() -> Iterator[psutil.Process]:
    """A process that has a child."""
    command = ["sh", "-c", "sleep 600 > /dev/null & echo; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        run = psutil.Process(process.pid)
        yield run
        end([run])


def test_what_was_noted_of_a_run_is_ended(root: Path, run: psutil.Process) -> None:
    (child,) = run.children()
    leftovers = Leftovers(root)
    leftovers.note_descendants(run.pid)
    assert leftovers.end() == [f"sleep (process {child.pid})"]
    assert wait([child], 0) == []


def test_a_run_that_has_ended_has_nothing_to_note(root: Path) -> None:
    leftovers = Leftovers(root)
    leftovers.note_descendants(2**22 + 1)  # beyond the largest id that Linux gives
    assert leftovers.end() == []


def test_what_ends_by_itself_is_waited_for(root: Path, run: psutil.Process) -> None:
    leftovers = Leftovers(root)
    leftovers.note_descendants(run.pid)
    run.children()[0].kill()
    assert leftovers.end(patience_s=10) == []


def test_haproxys_files_are_this_checkouts_own(root: Path, tmp_path: Path) -> None:
    ours, other = Leftovers(root).haproxy_environment(), Leftovers(tmp_path).haproxy_environment()
    assert set(ours.values()).isdisjoint(other.values())
    for name, path in ours.items():
        if name.endswith("SOCKET_PATH"):
            assert len(path) < 108, name  # what a Unix socket's path may have


# Ports.


def listener(port: int, setting: str = "http_options.port", host: str = "127.0.0.1") -> Listener:
    return Listener(host, port, setting)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "::1"),
        ("::1", "::"),
        ("::", "::1"),
    ],
)
def test_a_port_that_is_taken_is_told_with_its_owner(theirs: str, ours: str) -> None:
    family = socket.AF_INET6 if ":" in theirs else socket.AF_INET
    with socket.create_server((theirs, 0), family=family) as server:
        port = server.getsockname()[1]
        (line,) = taken_ports([listener(port, host=ours)])
    name = psutil.Process().name()
    assert line == (
        f"port {port} (http_options.port) is in use by {name} (process {os.getpid()}): "
        "stop that program, or choose another port"
    )


def test_a_port_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            assert client.getpeername()[1] == port
    assert taken_ports([listener(port)]) == []  # though a connection of it is still dying


def test_a_port_that_is_only_roots_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class ForRoot(socket.socket):
        """To tests too, which may be root."""

        @override
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("serve.leftovers.socket.socket", ForRoot)
    assert taken_ports([listener(80)]) == [
        "port 80 (http_options.port) cannot be listened on at 127.0.0.1: Permission denied"
    ]


def test_an_address_of_another_machine_is_told() -> None:
    (line,) = taken_ports([listener(8000, host="192.0.2.1")])
    assert line == "port 8000 (http_options.port) cannot be listened on at 192.0.2.1: Cannot assign requested address"


def test_one_port_for_two_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert taken_ports([listener(port), listener(port, "RAY_SERVE_HAPROXY_STATS_PORT", "0.0.0.0")]) == [
        f"port {port} is both http_options.port and RAY_SERVE_HAPROXY_STATS_PORT: choose another for one of them"
    ]
