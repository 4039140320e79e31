"""Ends a replica's engine processes when the replica itself can no longer do so.

vLLM's EngineCore and workers outlive a replica that is killed: they are found with parent 1, holding their memory. So
each replica starts one guard in a process group of its own. The guard notes the replica's descendants while it lives,
learns of its death from the pipe between them (the kernel closes it, however the replica died), and then ends them.

    guard = ProcessGuard.start()     # in the replica
    python -m deployments.process_guard <replica's pid>     # what that runs
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import psutil

from serve.processes import GRACE_S, descendants, end

POLL_S = 2.0
WATCHING = b"watching"
"""What the guard says once the descendants that there are cannot get away any more."""


class ProcessGuard:
    """The replica's end of the pipe. Closing it makes the guard end what is left of the replica's descendants."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def start(cls) -> ProcessGuard:
        """Returns once it watches, in a fraction of a second. Raises `RuntimeError` if it cannot be started."""
        root = Path(__file__).parents[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.process_guard", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env={"PYTHONPATH": str(root), "PATH": os.environ.get("PATH", "")},
            process_group=0,
        )
        assert process.stdout is not None
        with process.stdout:
            watches = process.stdout.read(len(WATCHING)) == WATCHING
        guard = cls(process)
        if not watches:
            guard.close()
            raise RuntimeError("the process guard did not start")
        return guard

    def close(self, timeout_s: float = 2 * GRACE_S + 5.0) -> None:
        """End the descendants that are left and wait for the guard to finish. Raises `subprocess.TimeoutExpired`."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout_s)


def watch(parent_pid: int, pipe: int) -> None:
    """Note the parent's descendants until `pipe` ends, then end them."""
    try:
        parent = psutil.Process(parent_pid)
    except psutil.NoSuchProcess:
        return
    known = _note(parent)
    os.write(sys.stdout.fileno(), WATCHING)
    ended = False
    while not ended:
        ended = bool(select.select([pipe], [], [], POLL_S)[0])
        # Once more at the end: a parent that closed the pipe itself is still there to be asked.
        known |= _note(parent)
    end(known.values())


def _note(parent: psutil.Process) -> dict[int, psutil.Process]:
    return {child.pid: child for child in descendants(parent) if child.pid != os.getpid()}


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.stdin.fileno())
