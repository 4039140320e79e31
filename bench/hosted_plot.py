"""The picture of a run of the hosted-model benchmark: rates, latencies, CPU time, memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.figures import SWITCHBOARD
from bench.hosted_figures import DIRECT, LITELLM, NAMES, PORTKEY, Turn, contestants, per_round, scenes
from bench.hosted_report import LABELS
from bench.plot import COLOURS, side_by_side

HOSTED_COLOURS = {
    DIRECT: "#7f8c8d",
    SWITCHBOARD: COLOURS[SWITCHBOARD],
    LITELLM: "#ca6f1e",
    PORTKEY: "#7d3c98",
}
TITLES = {"per_s": "requests/s or streams/s", **{metric: LABELS[metric] for metric in ("p50_ms", "cpu_ms", "rss_mib")}}


def draw_hosted(turns: Sequence[Turn], path: Path) -> None:
    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle("Gateways before an instant upstream: bars are medians, dots are rounds; logarithmic scales")
    colours = {NAMES[name]: colour for name, colour in HOSTED_COLOURS.items()}
    for axes, (metric, title) in zip(figure.subplots(2, 2).flat, TITLES.items(), strict=True):
        # The upstream's own processor time and memory are nobody's.
        names = [name for name in contestants(turns) if name != DIRECT or metric in ("per_s", "p50_ms")]
        values = {
            NAMES[name]: [list(per_round(turns, scene, name, metric).values()) for scene in scenes(turns)]
            for name in names
        }
        side_by_side(axes, values, colours)
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xticks(range(len(scenes(turns))), [str(scene).replace(", ", "\n") for scene in scenes(turns)])
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
