"""Run a command, and fail if any process that it started, however indirectly, outlives it.

    python .ci/leaves_nothing.py make test

HAProxy, vLLM's engines and Ray's daemons detach themselves, so that no parent is left to ask. As Linux's "child
subreaper" this process becomes the parent of every one of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys

import psutil

_PR_SET_CHILD_SUBREAPER = 36

# Seconds that a process has to end in, once the command is done.
_GRACE_S = 15.0


def main(command: list[str]) -> int:
    """The command's own exit status, or 1 where that is 0 and something was left running."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl cannot make this process a child subreaper")
    status = _wait_for(subprocess.Popen(command).pid)
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=_GRACE_S)
    for process in left:
        print(f"left running: {_describe(process)}", file=sys.stderr)
    for process in left:
        _kill(process)
    return status or int(bool(left))


def _wait_for(pid: int) -> int:
    """The exit status of `pid`. Those of others are collected meanwhile, as an init does: no zombies for the tests."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {process.name()}: {' '.join(process.cmdline())[:160]}"
    except psutil.NoSuchProcess:
        return f"{process.pid}, which has ended by now"


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
