from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from serve.demo import publish


def _publish(out: Path, made_from: str, content: str) -> None:
    with publish.publishing(out, made_from, ["demo"]) as aside:
        (aside / "demo").mkdir()
        (aside / "demo" / "weights").write_text(content)


def test_what_was_made_from_the_same_is_current(tmp_path: Path) -> None:
    assert not publish.is_current(tmp_path, "a", ["demo"])
    _publish(tmp_path, "a", "1")
    assert publish.is_current(tmp_path, "a", ["demo"])
    assert not publish.is_current(tmp_path, "b", ["demo"])
    assert not publish.is_current(tmp_path, "a", ["demo", "demo-embed"])


def test_a_new_model_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    _publish(tmp_path, "a", "1")
    _publish(tmp_path, "b", "2")
    assert (tmp_path / "demo" / "weights").read_text() == "2"
    assert publish.is_current(tmp_path, "b", ["demo"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo-digest", "demo"]


def test_an_interruption_leaves_the_old_model(tmp_path: Path) -> None:
    _publish(tmp_path, "a", "1")

    def interrupted() -> None:
        with publish.publishing(tmp_path, "b", ["demo"]) as aside:
            (aside / "demo").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "demo" / "weights").read_text() == "1"
    assert publish.is_current(tmp_path, "a", ["demo"])


def test_every_source_counts_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_text("question: When?")
    (tmp_path / "train.py").write_text("steps = 1")
    before = publish.digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    assert publish.digest(tmp_path) == before
    (tmp_path / "train.py").write_text("steps = 2")
    changed = publish.digest(tmp_path)
    assert changed != before
    (tmp_path / "shop.txt").write_text("question: Where?")
    assert publish.digest(tmp_path) not in (before, changed)


def test_a_second_maker_waits_for_the_first(tmp_path: Path) -> None:
    def grab() -> None:
        # A lock belongs to the open file, so that a second one in the same process waits too.
        with (tmp_path / ".demo-lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with publish.only_one(tmp_path), pytest.raises(BlockingIOError):
        grab()
    grab()
