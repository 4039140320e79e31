"""With real processes, some of which do not go willingly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from subprocess import PIPE

import psutil
import pytest

from serve import processes
from serve.processes import descendants, end, title, wait

Start = Callable[[str], psutil.Process]

SLEEPS = "import sys, time; print(flush=True); time.sleep(600)"
IS_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS
HAS_A_CHILD = "import subprocess, sys; one = subprocess.Popen(['sleep', '600']); print(flush=True); one.wait()"
ENDS_AT_ONCE = "print(flush=True)"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python program and returns once it has said that it runs."""
    with ExitStack() as stack:

        def start(program: str) -> psutil.Process:
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", program], stdout=PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            return psutil.Process(process.pid)

        yield start


def test_each_with_its_descendants(start: Start) -> None:
    parent = start(HAS_A_CHILD)
    (child,) = descendants(parent)
    name = parent.name()
    assert end([parent]) == [f"{name} (process {parent.pid})", f"sleep (process {child.pid})"]
    assert wait([parent, child], 0) == []


def test_one_that_does_not_listen(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    stubborn = start(IS_STUBBORN)
    assert len(end([stubborn])) == 1
    assert wait([stubborn], 10) == []


def test_one_that_has_ended_already(start: Start) -> None:
    gone = start(ENDS_AT_ONCE)
    assert wait([gone], 10) == []  # though its parent, this test, has not asked for its status
    assert end([gone]) == []
    assert descendants(gone) == []


def test_none() -> None:
    assert end([]) == []


def test_others_are_left_alone(start: Start) -> None:
    ours, other = start(SLEEPS), start(SLEEPS)
    end([ours])
    assert wait([other], 0) == [other]


def test_a_process_that_has_ended_has_a_title_too(start: Start) -> None:
    with subprocess.Popen(["sleep", "600"]) as sleeping:
        process = psutil.Process(sleeping.pid)
        assert title(process) == "sleep"
        sleeping.kill()
    assert title(process) == "a process that has ended"


def test_waiting_gives_up_in_time(start: Start) -> None:
    process = start(SLEEPS)
    assert wait([process], 0.01) == [process]
