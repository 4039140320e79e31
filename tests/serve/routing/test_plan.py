from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import AdapterUnusable, InvalidRequest, NotFound, Unavailable
from serve.registry import Snapshot
from serve.routing.fallback import Failure
from serve.routing.plan import UNAVAILABLE_RETRY_S, Names, Plan, plan
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
    return Plan((Target(model, adapter),), bot, first_model=model, first_adapter=adapter.name if adapter else None)


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


def falling_back(**fallbacks: tuple[str, ...]) -> Names:
    """The same names, with fallbacks of models."""
    return replace(NAMES, fallbacks=fallbacks)


def with_bot(fallback_models: tuple[str, ...] | None, **fallbacks: tuple[str, ...]) -> Names:
    bot = Bot("demo", ("support", "support-other"), fallback_models)
    return replace(falling_back(**fallbacks), bots={**NAMES.bots, "support-bot": bot})


def without(*models: str, names: Names = NAMES) -> Names:
    return replace(names, unavailable=dict.fromkeys(models, "it is gated"))


def targets(
    asked: str, names: Names = NAMES, session_bot: str | None = None, fallbacks: Sequence[str] | None = None
) -> list[Target]:
    return list(plan(asked, names, LIVE, session_bot, fallbacks=fallbacks).targets)


DEMO, DEMO_SUPPORT = Target("demo"), Target("demo", SUPPORT_2)
PLAIN, OTHER_BASE, OTHER_SUPPORT = Target("plain"), Target("other"), Target("other", OTHER)


def test_a_models_fallbacks_come_after_it_in_order() -> None:
    assert targets("demo", falling_back(demo=("plain", "other"))) == [DEMO, PLAIN, OTHER_BASE]


def test_a_fallbacks_own_fallbacks_do_not_count() -> None:
    assert targets("demo", falling_back(demo=("plain",), plain=("other",))) == [DEMO, PLAIN]


def test_the_requests_own_fallbacks_stand_for_the_models() -> None:
    assert targets("demo", falling_back(demo=("plain",)), fallbacks=["other"]) == [DEMO, OTHER_BASE]


@pytest.mark.parametrize("asked", ["demo", "demo:support", "support-bot"])
def test_a_request_that_wants_none_gets_none(asked: str) -> None:
    names = with_bot(("other",), demo=("plain",))
    assert targets(asked, names, fallbacks=[]) == targets(asked)


def test_a_request_may_fall_back_to_anything_that_it_may_ask_for() -> None:
    found = targets("plain", fallbacks=["demo:support@v1", "sales-bot", "other"])
    assert found == [PLAIN, Target("demo", SUPPORT_1), Target("demo", SALES), OTHER_BASE]


@pytest.mark.parametrize(("fallback", "code"), [("nothing", "model_not_found"), ("demo:nothing", "adapter_not_found")])
def test_an_unknown_fallback_of_a_request_is_not_found(fallback: str, code: str) -> None:
    with pytest.raises(NotFound) as caught:
        targets("plain", fallbacks=["demo", fallback])
    assert (caught.value.code, caught.value.param) == (code, "fallbacks")


def test_a_fallback_that_does_not_go_with_the_session_is_named_as_one() -> None:
    with pytest.raises(InvalidRequest) as caught:
        targets("support-bot", session_bot="support-bot", fallbacks=["sales-bot"])
    assert caught.value.param == "fallbacks"


def test_what_is_wrong_with_the_model_is_not_said_of_the_fallbacks() -> None:
    with pytest.raises(NotFound) as caught:
        targets("demo:nothing", fallbacks=["plain"])
    assert caught.value.param == "model"


@pytest.mark.parametrize("asked", ["demo:support", "demo:support@v2"])
def test_an_adapter_is_never_left_out_for_the_models_fallbacks(asked: str) -> None:
    assert targets(asked, falling_back(demo=("plain", "other"))) == [DEMO_SUPPORT]


def test_with_fallbacks_of_its_own_a_request_for_an_adapter_moves_on() -> None:
    assert targets("demo:support", fallbacks=["demo", "plain"]) == [DEMO_SUPPORT, DEMO, PLAIN]


@pytest.mark.parametrize(
    ("fallback_models", "found"),
    [
        (("other", "plain"), [DEMO_SUPPORT, OTHER_SUPPORT, PLAIN]),
        ((), [DEMO_SUPPORT]),
        (None, [DEMO_SUPPORT, PLAIN, OTHER_SUPPORT]),
    ],
)
@pytest.mark.parametrize(("asked", "session_bot"), [("support-bot", None), ("support-bot", "support-bot")])
def test_a_bots_fallbacks_stand_for_its_models_with_its_own_adapters(
    asked: str, session_bot: str | None, fallback_models: tuple[str, ...] | None, found: list[Target]
) -> None:
    names = with_bot(fallback_models, demo=("plain", "other"))
    assert targets(asked, names, session_bot) == found


def test_a_plan_is_made_in_the_name_of_the_first() -> None:
    planned = plan("support-bot", NAMES, LIVE, fallbacks=["plain"])
    assert (planned.bot, planned.first_adapter) == ("support-bot", "support")
    planned = plan("plain", NAMES, LIVE, fallbacks=["support-bot"])
    assert (planned.bot, planned.first_adapter) == (None, None)


def test_in_a_session_another_model_of_the_bot_has_its_own_fallbacks() -> None:
    names = with_bot(None, demo=("plain",), other=("demo",))
    assert targets("other", names, "support-bot") == [OTHER_SUPPORT, DEMO_SUPPORT]


def test_in_a_session_the_bot_decides_the_adapters_of_the_requests_fallbacks() -> None:
    assert targets("demo", NAMES, "support-bot", ["other"]) == [DEMO_SUPPORT, OTHER_SUPPORT]


@pytest.mark.parametrize("fallback", ["plain", "sales-bot", "demo:sales"])
def test_in_a_session_a_fallback_that_is_not_the_bots_is_refused(fallback: str) -> None:
    with pytest.raises(InvalidRequest, match="'support-bot'"):
        targets("demo", NAMES, "support-bot", [fallback])


@pytest.mark.parametrize(
    ("asked", "fallbacks"),
    [("demo", ["demo"]), ("demo", ["demo", "demo"]), ("demo:support", ["demo:support"]), ("plain", ["plain"])],
)
def test_no_target_is_asked_twice(asked: str, fallbacks: list[str]) -> None:
    assert targets(asked, fallbacks=fallbacks) == targets(asked)


def test_the_first_place_of_a_target_that_is_named_twice_counts() -> None:
    assert targets("demo", fallbacks=["plain", "other", "plain", "demo"]) == [DEMO, PLAIN, OTHER_BASE]


def unavailable(model: str) -> Failure:
    return Failure(model, 503, "model_unavailable", UNAVAILABLE_RETRY_S, sent=False)


def test_a_model_that_cannot_be_asked_is_skipped() -> None:
    planned = plan("demo", without("demo", "other"), LIVE, fallbacks=["other", "plain"])
    assert planned.targets == (PLAIN,)
    assert planned.skipped == (unavailable("demo"), unavailable("other"))


def test_an_unavailable_fallback_is_skipped_too() -> None:
    planned = plan("demo", without("plain", names=falling_back(demo=("plain", "other"))), LIVE)
    assert planned.targets == (DEMO, OTHER_BASE)
    assert planned.skipped == (unavailable("plain"),)


def test_the_bot_of_an_unavailable_model_answers_by_its_fallbacks() -> None:
    planned = plan("support-bot", without("demo", names=with_bot(("other",))), LIVE)
    assert (planned.targets, planned.bot, planned.first_adapter) == ((OTHER_SUPPORT,), "support-bot", "support")


def test_an_adapter_that_no_replica_has_yet_is_skipped() -> None:
    planned = plan("demo:support", NAMES, snapshot(replica("plain")), retry_after_s=7, fallbacks=["plain"])
    assert planned.targets == (PLAIN,)
    assert planned.skipped == (Failure("demo", 503, "service_unavailable", 7, sent=False),)


@pytest.mark.parametrize("fallbacks", [None, [], ["plain"]])
def test_when_nothing_is_left_the_first_refusal_is_told(fallbacks: list[str] | None) -> None:
    with pytest.raises(Unavailable, match="'demo' is not available: it is gated") as caught:
        plan("demo", without("demo", "plain"), LIVE, fallbacks=fallbacks)
    assert caught.value.code == "model_unavailable"
    assert caught.value.retry_after_s == UNAVAILABLE_RETRY_S


MODELS = st.sampled_from(sorted(NAMES.models))
SOME = st.lists(MODELS, max_size=4)


@given(MODELS, SOME, st.none() | SOME, st.sets(MODELS))
def test_every_model_is_tried_once_or_skipped_once_in_order(
    asked: str, own: list[str], given_too: list[str] | None, gone: set[str]
) -> None:
    wanted = list(dict.fromkeys([asked, *(own if given_too is None else given_too)]))
    names = without(*gone, names=falling_back(**{asked: tuple(own)}))
    if gone.issuperset(wanted):
        with pytest.raises(Unavailable):
            plan(asked, names, LIVE, fallbacks=given_too)
        return
    planned = plan(asked, names, LIVE, fallbacks=given_too)
    assert [target.model for target in planned.targets] == [model for model in wanted if model not in gone]
    assert [failure.target for failure in planned.skipped] == [model for model in wanted if model in gone]
