"""`make bench`: what Switchboard costs on top of the engine, beside a bare vLLM API server with the same engine.

    python -m bench.local_model [--model DIR] [--concurrency 1,8,32] [--rounds N] [--requests N] [--max-loras N]

Both servers are up at the same time and take turns, so that whatever else the machine does falls on both alike.
`docs/benchmarks.md` says how to read the result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench import command, report
from bench.command import OUT, numbers, positive, say
from bench.figures import BARE, SWITCHBOARD, Round
from bench.measure import Plan, measure
from bench.plot import draw
from bench.servers import MODEL, ROOT, Engine, all_groups, bare_vllm, local_model, switchboard


def main(model: Path, engine: Engine, plan: Plan) -> int:
    """Returns the process's exit status: 0, or 1 if a server did not start or an answer does not count."""
    return command.run(partial(_benchmark, model, engine, plan))


def _benchmark(model: Path, engine: Engine, plan: Plan) -> int:
    rounds = _run(model, engine, plan)
    (OUT / "local_model.json").write_text(report.as_json(plan, asdict(engine), rounds))
    draw(rounds, OUT / "local_model.png")
    print(f"\n{report.table(plan, rounds)}\n", flush=True)
    say(f"wrote local_model.json and local_model.png into {OUT.relative_to(ROOT)}")
    return 1 if report.errors(rounds) else 0


def _run(model: Path, engine: Engine, plan: Plan) -> list[Round]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        say("starting both servers: about a minute and a half on 2 cores")
        servers = {
            BARE: stack.enter_context(bare_vllm(model, engine, OUT)),
            SWITCHBOARD: stack.enter_context(switchboard(local_model(model, engine), OUT, folder)),
        }
        servers[BARE].wait_until("/health", say)
        servers[SWITCHBOARD].wait_until("/ready", say)
        say("both are ready")
        rounds = command.measured(
            measure(
                plan,
                {name: server.port for name, server in servers.items()},
                partial(all_groups, list(servers.values())),
                partial(_say_turn, plan),
            )
        )
        say("stopping both servers")
    return rounds


def _say_turn(plan: Plan, turn: Round) -> None:
    say(report.progress(turn, plan.rounds))


def _arguments(arguments: Sequence[str]) -> tuple[Path, Engine, Plan]:
    usual = Plan(MODEL)
    parser = argparse.ArgumentParser(prog="python -m bench.local_model", description="Switchboard beside bare vLLM.")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo", help="a model's directory")
    parser.add_argument("--concurrency", type=numbers, default=usual.streams, help="streams at once, as in 1,8,32")
    parser.add_argument("--rounds", type=positive, default=usual.rounds, help="turns of each server")
    parser.add_argument(
        "--requests",
        type=positive,
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


if __name__ == "__main__":
    raise SystemExit(main(*_arguments(sys.argv[1:])))
