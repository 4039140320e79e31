"""`make bench`: what Switchboard costs on top of the engine, beside a bare vLLM API server with the same engine.

    python -m bench.local_model [--model DIR] [--concurrency 1,8,32] [--rounds N] [--requests N] [--max-loras N]

Both servers are up at the same time and take turns, so that whatever else the machine does falls on both alike.
`docs/benchmarks.md` says how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

import psutil
import uvloop

from bench import report
from bench.cpu import Groups
from bench.figures import BARE, SWITCHBOARD, Round
from bench.measure import Plan, measure
from bench.plot import draw
from bench.servers import MODEL, ROOT, Engine, Server, StartFailed, bare_vllm, switchboard

OUT = ROOT / "bench" / "out"
INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(model: Path, engine: Engine, plan: Plan) -> int:
    """Returns the process's exit status: 0, or 1 if a server did not start or an answer does not count."""
    # SIGTERM as Ctrl-C, and both also where a shell started this process in the background, deaf to Ctrl-C.
    for signum in ENDING:
        signal.signal(signum, signal.default_int_handler)
    OUT.mkdir(exist_ok=True)
    try:
        rounds = _run(model, engine, plan)
    except StartFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("interrupted; both servers are stopped")
        return INTERRUPTED
    (OUT / "local_model.json").write_text(report.as_json(plan, asdict(engine), rounds))
    draw(rounds, OUT / "local_model.png")
    print(f"\n{report.table(plan, rounds)}\n", flush=True)
    _say(f"wrote local_model.json and local_model.png into {OUT.relative_to(ROOT)}")
    return 1 if report.errors(rounds) else 0


def _run(model: Path, engine: Engine, plan: Plan) -> list[Round]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        _say("starting both servers: about a minute and a half on 2 cores")
        servers = {
            BARE: stack.enter_context(bare_vllm(model, engine, OUT)),
            SWITCHBOARD: stack.enter_context(switchboard(model, engine, OUT, folder)),
        }
        servers[BARE].wait_until("/health", _say)
        servers[SWITCHBOARD].wait_until("/ready", _say)
        _say("both are ready")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rounds = runner.run(_measure(plan, servers))
        _say("stopping both servers")
    return rounds


async def _measure(plan: Plan, servers: Mapping[str, Server]) -> list[Round]:
    _take_the_cpu_first()
    # A signal's exception inside a callback of the loop would end that callback alone, so the loop itself listens.
    measuring = asyncio.create_task(
        measure(
            plan,
            {name: server.port for name, server in servers.items()},
            partial(_groups, list(servers.values())),
            partial(_say_turn, plan),
        )
    )
    for signum in ENDING:
        asyncio.get_running_loop().add_signal_handler(signum, measuring.cancel)
    try:
        return await measuring
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _take_the_cpu_first() -> None:
    """Be scheduled as soon as something arrives, so that the times are the servers' and not this process's own waits.

    An engine on a CPU spins while it works; on few cores a client that takes its turn sees all tokens arrive at once.
    Needs root; without it the client takes its turn.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _groups(servers: Sequence[Server]) -> Groups:
    """Every process that has a part in the run."""
    groups: dict[str, Sequence[psutil.Process]] = {"client": [psutil.Process(os.getpid())]}
    for server in servers:
        groups |= server.groups()
    return groups


def _say_turn(plan: Plan, turn: Round) -> None:
    _say(report.progress(turn, plan.rounds))


def _say(line: str) -> None:
    print(f"[bench] {line}", flush=True)


def _arguments(arguments: Sequence[str]) -> tuple[Path, Engine, Plan]:
    usual = Plan(MODEL)
    parser = argparse.ArgumentParser(prog="python -m bench.local_model", description="Switchboard beside bare vLLM.")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo", help="a model's directory")
    parser.add_argument("--concurrency", type=_numbers, default=usual.streams, help="streams at once, as in 1,8,32")
    parser.add_argument("--rounds", type=_positive, default=usual.rounds, help="turns of each server")
    parser.add_argument(
        "--requests",
        type=_positive,
        default=usual.requests_per_stream,
        help=f"requests per stream and round; a round has at least {usual.fewest_requests}",
    )
    parser.add_argument(
        "--max-loras", type=int, default=Engine().max_loras, help="adapters in a batch; 0: an engine without adapters"
    )
    chosen = parser.parse_args(arguments)
    if not (chosen.model / "config.json").is_file():
        parser.error("--model: there is no model in that directory (`make demo` makes the usual one)")
    plan = Plan(MODEL, streams=chosen.concurrency, rounds=chosen.rounds, requests_per_stream=chosen.requests)
    return chosen.model.resolve(), Engine(max_loras=chosen.max_loras), plan


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_positive(part) for part in text.split(",")))


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return number


if __name__ == "__main__":
    raise SystemExit(main(*_arguments(sys.argv[1:])))
