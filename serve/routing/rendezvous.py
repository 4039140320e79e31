"""Rendezvous (highest random weight) hashing: an order of places for a key that everybody computes alike.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998. Removing a place moves only
the keys that were on it; nothing has to be stored or agreed on.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def rendezvous(key: str, ids: Iterable[str]) -> list[str]:
    """`ids`, the favourite place of `key` first. The order in which they are given does not matter."""
    keyed = blake2b(key.encode(), digest_size=8)

    def weight(one: str) -> tuple[bytes, str]:
        weighed = keyed.copy()
        weighed.update(b"\0" + one.encode())
        return weighed.digest(), one

    return sorted(ids, key=weight, reverse=True)
