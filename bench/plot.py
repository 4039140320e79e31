"""A run's picture: rates, times to the first token, gaps between tokens, CPU time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import BARE, SWITCHBOARD, Round, cpu_ms_per_request, pairs_at, spread

mpl.use("Agg")

COLOURS = {BARE: "#7f8c8d", SWITCHBOARD: "#2471a3"}
WIDTH = 0.38
"""Of a bar; two stand side by side at each number of streams."""


def draw(rounds: Sequence[Round], path: Path) -> None:
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle("Switchboard beside a bare vLLM server: bars are medians, dots are rounds")
    rate, first, gap, cpu = figure.subplots(2, 2).flat
    _bars(rate, rounds, "tokens_per_s", "tokens/s")
    _bars(first, rounds, "ttft_p50_ms", "time to first token, p50, ms")
    _bars(gap, rounds, "inter_token_p50_ms", "time between tokens, p50, ms")
    _cpu(cpu, rounds)
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, rounds: Sequence[Round], metric: str, title: str) -> None:
    numbers = _streams(rounds)
    values = {
        name: [[getattr(pair[side].figures, metric) for pair in pairs_at(rounds, streams)] for streams in numbers]
        for side, name in enumerate((BARE, SWITCHBOARD))
    }
    side_by_side(axes, values, COLOURS)
    axes.set_title(title)
    _name_streams(axes, numbers)
    axes.legend()


def side_by_side(axes: Axes, values: Mapping[str, Sequence[Sequence[float]]], colours: Mapping[str, str]) -> None:
    """Of each name a bar at every place (its values' median), and a dot for each value."""
    width = 2 * WIDTH / len(values)
    for side, (name, at_places) in enumerate(values.items()):
        for place, found in enumerate(at_places):
            x = place + (side - (len(values) - 1) / 2) * width
            axes.bar(x, spread(found).median, width, color=colours[name], label=name if place == 0 else None)
            axes.plot([x] * len(found), found, ".", color="black", markersize=4)


def _cpu(axes: Axes, rounds: Sequence[Round]) -> None:
    """Stacked: what each group of processes used for one request; left bare, right Switchboard."""
    numbers = _streams(rounds)
    groups = sorted({group for one in rounds for group in one.cpu_s})
    shades = mpl.colormaps["tab20"]
    for place, streams in enumerate(numbers):
        for side, name in enumerate((BARE, SWITCHBOARD)):
            used = cpu_ms_per_request(rounds, streams, name)
            below = 0.0
            for shade, group in enumerate(groups):
                label = group if (place, side) == (0, 0) else None
                x = place + (side - 0.5) * WIDTH
                axes.bar(x, used.get(group, 0.0), WIDTH * 0.9, bottom=below, color=shades(shade), label=label)
                below += used.get(group, 0.0)
    axes.set_title("CPU time a request, ms (left bare, right Switchboard)")
    _name_streams(axes, numbers)
    axes.legend(fontsize="small")


def _name_streams(axes: Axes, numbers: Sequence[int]) -> None:
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    axes.set_xlabel("streams at once")
    axes.grid(axis="y", alpha=0.3)


def _streams(rounds: Sequence[Round]) -> list[int]:
    return list(dict.fromkeys(one.streams for one in rounds))
