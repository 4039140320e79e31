"""What Switchboard costs before a hosted model, beside other gateways.

    python -m bench.hosted [--clients 1,32] [--rounds N] [--requests N] [--peers switchboard,litellm,portkey]

All of them ask one upstream on this machine, which answers at once. All are up at the same time and take turns.
`docs/benchmarks.md` says how to read the result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import command, peers
from bench.command import OUT, numbers, positive, say
from bench.figures import SWITCHBOARD
from bench.hosted_figures import DIRECT, LITELLM, NAMES, PORTKEY, Turn
from bench.hosted_measure import Contestant, HostedPlan, measure_hosted
from bench.hosted_plot import draw_hosted
from bench.hosted_report import Result, hosted_json, hosted_progress, hosted_table
from bench.servers import ROOT, START_S, Server, StartFailed, all_groups, free_ports, hear_signals
from bench.upstream import HEALTH

Start = Callable[[int, Path, Path], AbstractContextManager[Server]]
UPSTREAM_START_S = 30.0
PEER_START_S = 180.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """How to start it before an upstream's port, which path answers once it is up, and what its requests say."""

    start: Start
    ready: str
    headers: Callable[[int], Mapping[str, str]] = lambda upstream: {}
    patience_s: float = PEER_START_S


GATEWAYS = {
    SWITCHBOARD: Gateway(peers.hosted_switchboard, "/ready", patience_s=START_S),
    LITELLM: Gateway(peers.litellm, "/health/liveness"),
    PORTKEY: Gateway(peers.portkey, "/", peers.portkey_headers),
}


def main(plan: HostedPlan, names: Sequence[str]) -> int:
    """Returns the process's exit status: 0, or 1 if a needed server did not start or an answer was not as expected."""
    return command.run(partial(_benchmark, plan, names))


def _benchmark(plan: HostedPlan, names: Sequence[str]) -> int:
    result = _run(plan, names)
    (OUT / "hosted.json").write_text(hosted_json(result))
    draw_hosted(result.turns, OUT / "hosted.png")
    print(f"\n{hosted_table(result)}\n", flush=True)
    say(f"wrote hosted.json and hosted.png into {OUT.relative_to(ROOT)}")
    return 1 if result.errors else 0


def _run(plan: HostedPlan, names: Sequence[str]) -> Result:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        (port,) = free_ports(1)
        upstream = stack.enter_context(peers.upstream(port, OUT))
        upstream.wait_until(HEALTH, say, UPSTREAM_START_S)
        say("starting the gateways; what is missing is installed first")
        servers, left_out = started(names, port, folder, stack)
        contestants = [Contestant(DIRECT, port, dict, {})]
        contestants += [
            Contestant(name, server.port, server.groups, GATEWAYS[name].headers(port))
            for name, server in servers.items()
        ]
        say(f"ready: {', '.join(NAMES[one.name] for one in contestants)}")
        groups = partial(all_groups, [upstream, *servers.values()])
        turns = command.measured(measure_hosted(plan, contestants, groups, partial(_say_turn, plan)))
        say("stopping every server")
    return Result(plan, turns, peers.versions(list(servers)), left_out)


def started(
    names: Sequence[str], upstream: int, folder: Path, stack: ExitStack
) -> tuple[dict[str, Server], dict[str, str]]:
    """The gateways that came up, which `stack` stops, and why the others did not. Raises `StartFailed` for our own."""
    left_out: dict[str, str] = {}
    servers: dict[str, Server] = {}
    stacks = {name: stack.enter_context(ExitStack()) for name in names}
    for name in names:
        with _leaving_out(name, stacks[name], left_out):
            servers[name] = stacks[name].enter_context(GATEWAYS[name].start(upstream, OUT, folder))
    for name, server in list(servers.items()):
        with _leaving_out(name, stacks[name], left_out):
            server.wait_until(GATEWAYS[name].ready, say, GATEWAYS[name].patience_s)
    return {name: server for name, server in servers.items() if name not in left_out}, left_out


@contextmanager
def _leaving_out(name: str, stack: ExitStack, left_out: dict[str, str]) -> Iterator[None]:
    """A peer that does not start is stopped, and the reason noted. Switchboard's failure is the benchmark's."""
    try:
        yield
    except StartFailed as error:
        if name == SWITCHBOARD:
            raise
        stack.close()
        hear_signals()  # stopping a server makes this process deaf
        left_out[name] = in_a_line(str(error))
        say(f"{NAMES[name]} is left out: {left_out[name]}")


def in_a_line(text: str) -> str:
    """Its first line and its last: what failed, and what the log ends with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(dict.fromkeys([lines[0], lines[-1]]))


def _say_turn(plan: HostedPlan, turn: Turn) -> None:
    say(hosted_progress(turn, plan.rounds))


def arguments(given: Sequence[str]) -> tuple[HostedPlan, list[str]]:
    """The command line's: the plan, and which gateways take part."""
    usual = HostedPlan()
    parser = argparse.ArgumentParser(prog="python -m bench.hosted", description="Switchboard beside other gateways.")
    parser.add_argument("--clients", type=numbers, default=usual.clients, help="clients at once, as in 1,32")
    parser.add_argument("--rounds", type=positive, default=usual.rounds, help="turns of each contestant")
    parser.add_argument(
        "--requests",
        type=positive,
        default=usual.requests,
        help=f"requests of a turn; it ends after {usual.turn_s:g} s in any case",
    )
    parser.add_argument("--peers", type=_gateways, default=list(GATEWAYS), help=f"of {','.join(GATEWAYS)}")
    chosen = parser.parse_args(given)
    return HostedPlan(clients=chosen.clients, rounds=chosen.rounds, requests=chosen.requests), chosen.peers


def _gateways(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in GATEWAYS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(GATEWAYS)}")
    return names


if __name__ == "__main__":
    raise SystemExit(main(*arguments(sys.argv[1:])))
