from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.hosted_figures import DIRECT
from bench.hosted_plot import draw_hosted
from bench.hosted_report import Result, hosted_json, hosted_progress, hosted_table
from tests.bench.hosted_turns import FAST, PLAN, turns

RESULT = Result(PLAN, turns(), {"litellm": "1.2.3"}, {})


def lines(result: Result) -> list[str]:
    return hosted_table(result).splitlines()


def test_every_scene_has_a_block_with_its_own_unit() -> None:
    heads = [line for line in lines(RESULT) if line.endswith("Portkey")]
    assert [line.partition("  ")[0] for line in heads] == [str(scene) for scene in PLAN.scenes()]
    rates = [line for line in lines(RESULT) if line.startswith(("  requests/s", "  streams/s"))]
    assert [line.split()[0] for line in rates] == ["requests/s"] * 2 + ["streams/s"] * 2
    assert rates[0].split()[1:] == [
        "9000", "(9000–9000)", "2000", "(2000–2000)", "100", "(100–100)", "800", "(800–800)"
    ]  # fmt: skip


def test_what_the_upstream_itself_adds_is_not_said() -> None:
    line = next(line for line in lines(RESULT) if line.startswith("  added p50"))
    assert line.split()[3:5] == ["–", "+1.00"]


def test_ratios_and_the_parts_of_the_cpu_time_are_told() -> None:
    assert any(line.startswith("  Switchboard ÷ LiteLLM: requests/s 20.00 (20.00–20.00)") for line in lines(RESULT))
    parts = next(line for line in lines(RESULT) if "CPU time of a request through" in line)
    assert parts.endswith("client 0.10, switchboard: routers 2.00")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (RESULT, ["met", "met", "missed", "met"]),
        (replace(RESULT, turns=turns(FAST, added_ms=1.3)), ["met", "met", "met", "missed"]),
    ],
)
def test_each_aim_is_said_to_be_met_or_missed(result: Result, words: list[str]) -> None:
    assert [line.rpartition(": ")[2] for line in lines(result) if ", aim at " in line] == words


def test_a_peer_that_was_left_out_has_a_line_with_the_reason() -> None:
    rest = [turn for turn in turns() if turn.contestant != "portkey"]
    told = lines(replace(RESULT, turns=rest, left_out={"portkey": "Portkey could not be installed: npm: no such file"}))
    assert "Portkey is left out: Portkey could not be installed: npm: no such file" in told
    assert any("÷ Portkey" in line and line.endswith("not measured") for line in told)


def test_faults_are_counted_and_told() -> None:
    result = replace(RESULT, turns=turns(errors=3))
    assert result.errors == 3 * sum(turn.contestant != DIRECT for turn in result.turns)
    assert "32 clients, streams, round 2, LiteLLM: 3 × status 500: no" in lines(result)
    assert hosted_progress(result.turns[1], 2).endswith("3 ERRORS")


def test_json_holds_every_turn_and_no_nan() -> None:
    content = json.loads(hosted_json(RESULT), parse_constant=pytest.fail)
    assert len(content["turns"]) == len(RESULT.turns)
    assert content["environment"]["litellm"] == "1.2.3"
    added = next(one for one in content["compared"] if one["metric"] == "added_p50_ms")
    assert added["values"]["direct"]["median"] is None
    assert content["aims"][0]["got"]["median"] == pytest.approx(20.0)


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    draw_hosted(turns(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
