from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import AdapterUnusable, InvalidRequest, NotFound, Unavailable
from serve.registry import Snapshot
from serve.routing.plan import Names, Plan, plan
from serve.schemas import AdapterRef, AdapterVersion, ReplicaPhase, ReplicaState, Target


@dataclass(frozen=True)
class Bot:
    model: str
    adapters: tuple[str, ...] = ()
    fallback_models: tuple[str, ...] | None = None


NAMES = Names(
    models={"demo", "other", "plain"},
    bots={
        "support-bot": Bot("demo", ("support", "support-other")),
        "sales-bot": Bot("demo", ("sales",)),
        "bare-bot": Bot("plain"),
    },
    adapters={("demo", "support"), ("demo", "sales"), ("other", "support-other")},
)

SUPPORT_1 = AdapterRef("demo", "support", "1" * 12, "v1")
SUPPORT_2 = AdapterRef("demo", "support", "2" * 12, "v2")
SALES = AdapterRef("demo", "sales", "3" * 12)
OTHER = AdapterRef("other", "support-other", "4" * 12)


def snapshot(*replicas: ReplicaState) -> Snapshot:
    return Snapshot("e", 1, False, replicas)


def replica(model: str, *adapters: AdapterVersion) -> ReplicaState:
    return ReplicaState(f"{model}-1", "http://127.0.0.1:1", ReplicaPhase.READY, (model,), 8, adapters=adapters)


LIVE = snapshot(
    replica(
        "demo",
        AdapterVersion(SUPPORT_1, current=False, since=1),
        AdapterVersion(SUPPORT_2, current=True, since=2),
        AdapterVersion(SALES, current=True, since=1),
    ),
    replica("other", AdapterVersion(OTHER, current=True, since=1)),
    replica("plain"),
)


def only(model: str, adapter: AdapterRef | None = None, bot: str | None = None) -> Plan:
    return Plan((Target(model, adapter),), bot, first_adapter=adapter.name if adapter else None)


@pytest.mark.parametrize(
    ("asked", "planned"),
    [
        ("demo", only("demo")),
        ("demo:support", only("demo", SUPPORT_2)),
        ("demo:support@v1", only("demo", SUPPORT_1)),
        (f"demo:support@{SUPPORT_1.digest}", only("demo", SUPPORT_1)),
        ("support-bot", only("demo", SUPPORT_2, "support-bot")),
        ("sales-bot", only("demo", SALES, "sales-bot")),
        ("bare-bot", only("plain", None, "bare-bot")),
    ],
)
def test_without_a_session_the_name_decides(asked: str, planned: Plan) -> None:
    assert plan(asked, NAMES, LIVE) == planned


@pytest.mark.parametrize(
    ("asked", "planned"),
    [
        ("support-bot", only("demo", SUPPORT_2, "support-bot")),
        ("demo", only("demo", SUPPORT_2, "support-bot")),
        ("other", only("other", OTHER, "support-bot")),
        ("demo:support", only("demo", SUPPORT_2, "support-bot")),
        ("demo:support@v1", only("demo", SUPPORT_1, "support-bot")),
    ],
)
def test_with_a_session_its_bot_decides(asked: str, planned: Plan) -> None:
    assert plan(asked, NAMES, LIVE, "support-bot") == planned


def test_a_session_of_a_bot_without_adapters_gets_the_base_model() -> None:
    assert plan("plain", NAMES, LIVE, "bare-bot") == only("plain", None, "bare-bot")


@pytest.mark.parametrize("asked", ["sales-bot", "demo:sales", "demo:nothing", "plain", "bare-bot"])
def test_what_the_sessions_bot_does_not_answer_as_is_refused_by_its_name(asked: str) -> None:
    with pytest.raises(InvalidRequest, match="'support-bot'") as caught:
        plan(asked, NAMES, LIVE, "support-bot")
    assert caught.value.param == "model"


def test_a_session_whose_bot_is_no_longer_configured_is_not_found() -> None:
    with pytest.raises(NotFound, match="'gone-bot'"):
        plan("demo", NAMES, LIVE, "gone-bot")


@pytest.mark.parametrize("session_bot", [None, "support-bot"])
@pytest.mark.parametrize("asked", ["", "nothing", "nothing:support", "support-bot:support", "demo@v1"])
def test_an_unknown_model_is_not_found_and_no_other_name_is_told(asked: str, session_bot: str | None) -> None:
    with pytest.raises(NotFound) as caught:
        plan(asked, NAMES, LIVE, session_bot)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert str(caught.value).replace(asked, "") == f"The model '{asked}' does not exist.".replace(asked, "")


@pytest.mark.parametrize("asked", ["demo:nothing", "demo:support@v9", "other:support"])
def test_an_unknown_adapter_or_version_is_not_found(asked: str) -> None:
    with pytest.raises(NotFound) as caught:
        plan(asked, NAMES, LIVE)
    assert caught.value.code == "adapter_not_found"


def test_an_adapter_that_replicas_know_and_the_configuration_does_not_is_found() -> None:
    added = AdapterRef("demo", "added", "5" * 12)
    live = snapshot(replica("demo", AdapterVersion(added, current=True, since=1)))
    assert plan("demo:added", NAMES, live) == only("demo", added)


@pytest.mark.parametrize("asked", ["demo:support", "demo:support@v9", "support-bot"])
@pytest.mark.parametrize("live", [snapshot(), snapshot(replica("demo"))])
def test_before_a_replica_tells_its_versions_the_adapter_is_unavailable(asked: str, live: Snapshot) -> None:
    with pytest.raises(Unavailable) as caught:
        plan(asked, NAMES, live, retry_after_s=7)
    assert caught.value.retry_after_s == 7


def test_without_any_replica_an_unknown_adapter_is_not_found_all_the_same() -> None:
    with pytest.raises(NotFound):
        plan("demo:nothing", NAMES, snapshot())


def test_without_any_replica_a_model_can_be_planned() -> None:
    assert plan("demo", NAMES, snapshot()) == only("demo")


def test_an_adapter_that_no_replica_can_load_is_unusable() -> None:
    live = snapshot(replica("demo", AdapterVersion(SALES, current=True, since=1, fault="too large")))
    with pytest.raises(AdapterUnusable, match="too large"):
        plan("sales-bot", NAMES, live)


NEARLY_NAMES = st.from_regex("(demo|other|support-bot|x)(:(support|sales|x)(@(v1|x))?)?", fullmatch=True)


@given(st.text() | NEARLY_NAMES, st.sampled_from([None, *NAMES.bots]))
def test_any_name_is_planned_or_refused(asked: str, session_bot: str | None) -> None:
    try:
        planned = plan(asked, NAMES, LIVE, session_bot)
    except (NotFound, InvalidRequest):
        return
    (target,) = planned.targets
    assert target.model in NAMES.models
    assert planned.bot == session_bot or session_bot is None
    assert target.adapter is None or target.adapter.model == target.model
