from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.figures import BARE, SWITCHBOARD, Figures, Round
from bench.measure import Plan
from bench.plot import draw
from bench.report import as_json, table

PLAN = Plan("demo", streams=(1, 32), rounds=2)


def turn(streams: int, number: int, server: str, *, rate: float, ttft: float, errors: int = 0) -> Round:
    values = Figures(48, errors, 2.0, rate, rate / 32, ttft, ttft * 2, 1.0, 2.0)
    faults = {"status 500: no": errors} if errors else {}
    return Round(streams, number, server, values, faults, {"client": 0.048, f"{server}: engine": 0.48})


def rounds(ratio: float = 0.95, added_ms: float = 1.0, errors: int = 0) -> list[Round]:
    return [
        one
        for streams in PLAN.streams
        for number in (1, 2)
        for one in (
            turn(streams, number, BARE, rate=1000.0, ttft=8.0),
            turn(streams, number, SWITCHBOARD, rate=1000.0 * ratio, ttft=8.0 + added_ms, errors=errors),
        )
    ]


@pytest.mark.parametrize(
    ("ratio", "added_ms", "rate_word", "ttft_word"),
    [(0.95, 1.0, "met", "met"), (0.90, 1.5, "met", "met"), (0.89, 1.6, "missed", "missed")],
)
def test_the_table_ends_with_what_is_aimed_at(ratio: float, added_ms: float, rate_word: str, ttft_word: str) -> None:
    lines = table(PLAN, rounds(ratio, added_ms)).splitlines()
    assert any(line.startswith("tokens/s at 32 streams") and line.endswith(rate_word) for line in lines)
    assert any(line.startswith("added TTFT p50 at 1 stream") and line.endswith(ttft_word) for line in lines)


def test_the_table_says_what_was_wrong_and_where() -> None:
    assert "32 streams, round 2, switchboard: 3 × status 500: no" in table(PLAN, rounds(errors=3))


def test_cpu_time_is_given_for_each_request() -> None:
    line = next(line for line in table(PLAN, rounds()).splitlines() if "bare: engine" in line)
    assert line.split()[-2:] == ["10.00", "0.00"]


def test_json_holds_every_round_and_no_nan() -> None:
    dead = turn(1, 1, BARE, rate=0.0, ttft=float("nan"))
    text = as_json(PLAN, {"max_loras": 4}, [dead, *rounds()[1:]])
    content = json.loads(text, parse_constant=pytest.fail)
    assert len(content["rounds"]) == 8
    assert content["rounds"][0]["figures"]["ttft_p50_ms"] is None
    assert content["engine"] == {"max_loras": 4}
    assert content["environment"]["python"]


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    draw(rounds(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
