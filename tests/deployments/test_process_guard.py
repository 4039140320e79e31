"""With real processes: a replica that is killed takes its engine's processes along."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from serve.processes import end, wait

PATIENCE_S = 20.0
REPLICA = """
import json, subprocess, sys
from deployments.process_guard import ProcessGuard

engine = "import subprocess, sys; one = subprocess.Popen(['sleep', '600']); print(one.pid, flush=True); one.wait()"
child = subprocess.Popen([sys.executable, "-c", engine], stdout=subprocess.PIPE, start_new_session=True)
grandchild = int(child.stdout.readline())
guard = ProcessGuard.start()
print(json.dumps([child.pid, grandchild, guard._process.pid]), flush=True)
sys.stdin.readline()
child.stdout.close()
guard.close()
print("closed", flush=True)
sys.stdin.readline()
"""


class Replica:
    """A process with an engine's processes below it, and its guard."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen([sys.executable, "-c", REPLICA], stdin=PIPE, stdout=PIPE, text=True, cwd=root)
        pids: list[int] = json.loads(self.read())
        self.engine = [psutil.Process(pid) for pid in pids[:2]]
        self.guard = psutil.Process(pids[2])

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def write(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


@pytest.fixture
def replica() -> Iterator[Replica]:
    replica = Replica()
    with replica.process:
        yield replica
        replica.process.kill()
        end([*replica.engine, replica.guard])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_however_a_replica_dies_its_engine_goes_too(replica: Replica, how: signal.Signals) -> None:
    assert wait([*replica.engine, replica.guard], 0) == [*replica.engine, replica.guard]
    replica.process.send_signal(how)
    replica.process.wait()
    assert wait([*replica.engine, replica.guard], PATIENCE_S) == []


def test_a_replica_that_ends_in_good_order_leaves_nothing_either(replica: Replica) -> None:
    replica.write()
    assert replica.read() == "closed\n"
    assert wait([*replica.engine, replica.guard], PATIENCE_S) == []
    assert replica.process.poll() is None


def test_a_guard_that_cannot_watch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.process_guard import ProcessGuard

    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(RuntimeError, match="did not start"):
        ProcessGuard.start()
