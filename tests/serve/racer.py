"""A process that waits at the start line for others like it: `python -m tests.serve.racer URL [SESSION
REPLICA]`.

Says `ready`, waits for a line, makes its first call to the store at URL, or pins SESSION to REPLICA there,
and says how that ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen

import sqlalchemy as sa

from serve.sessions import SessionManager
from serve.store import Store


def race(arguments: Sequence[Sequence[str]]) -> list[str]:
    """Start one process for each, let all go at once, and give what each said."""
    with ExitStack() as stack:
        racers = []
        for each in arguments:
            command = [sys.executable, "-m", "tests.serve.racer", *each]
            racer = Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=Path(__file__).parents[2])
            racers.append(stack.enter_context(racer))
        said = []
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        for racer in racers:
            assert racer.stdout is not None
            said.append(racer.stdout.readline().strip())
        return said


async def _run(url: str, session_id: str = "", replica_id: str = "") -> str:
    store = Store(url, timeout_s=20)
    manager = SessionManager(store, ttl_s=60, max_metadata_bytes=256)
    if session_id:
        await manager.get(session_id)
    print("ready", flush=True)
    sys.stdin.readline()
    if session_id:
        said = await manager.pin_replica(session_id, replica_id, None)
    else:
        said = str(await store.run(lambda connection: connection.execute(sa.text("SELECT 'made'")).scalar()))
    store.close()
    return said


if __name__ == "__main__":
    print(asyncio.run(_run(*sys.argv[1:])), flush=True)
