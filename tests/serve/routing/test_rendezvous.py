from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serve.routing.rendezvous import rendezvous

IDS = st.lists(st.text(st.characters(codec="utf-8")), unique=True, min_size=1, max_size=12)


@given(st.text(st.characters(codec="utf-8")), IDS)
def test_the_order_is_of_all_places_whatever_order_they_come_in(key: str, ids: list[str]) -> None:
    order = rendezvous(key, ids)
    assert sorted(order) == sorted(ids)
    assert rendezvous(key, reversed(ids)) == order


@given(st.text(st.characters(codec="utf-8")), IDS)
def test_a_place_that_goes_moves_nothing_else(key: str, ids: list[str]) -> None:
    order = rendezvous(key, ids)
    assert rendezvous(key, ids[1:]) == [one for one in order if one != ids[0]]


def test_it_is_the_same_in_every_process() -> None:
    assert rendezvous("demo:support@0123456789ab", ["r1", "r2", "r3"]) == ["r2", "r1", "r3"]


def test_keys_spread_evenly() -> None:
    ids = [f"r{index}" for index in range(8)]
    homes = Counter(rendezvous(f"key{index}", ids)[0] for index in range(8000))
    assert min(homes.values()) > 850
    assert max(homes.values()) < 1150
