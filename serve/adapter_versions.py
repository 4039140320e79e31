"""Which version of an adapter a name means: the one rule of the managers, which have the files, and the routers."""

from __future__ import annotations

from collections.abc import Sequence

from serve.errors import AdapterUnusable, NotFound
from serve.quoting import quoted
from serve.schemas import AdapterRef, AdapterVersion


def resolve_version(model: str, name: str, version: str | None, known: Sequence[AdapterVersion]) -> AdapterRef:
    """The version that `model:name[@version]` means now, of all that are `known` of the adapter.

    Without `version`: the one that became current last. Else a digest, or a label: a digest first where both read the
    same, and of several with one label the newest. Raises `NotFound` (`adapter_not_found`), or `AdapterUnusable` if it
    cannot be loaded: an older version is never taken in its place.
    """
    if version is None:
        matches = [one for one in known if one.current]
    else:
        matches = [one for one in known if one.ref.digest == version]
        matches = matches or [one for one in known if one.ref.label == version]
    if not matches:
        asked = name if version is None else f"{name}@{version}"
        raise NotFound(f"The model {quoted(model)} has no adapter {quoted(asked)}.", "model", "adapter_not_found")
    # Of equals the same on every router.
    found = max(matches, key=lambda one: (one.since, one.ref.digest, one.ref.label or ""))
    if found.fault is not None:
        raise unusable(found)
    return found.ref


def unusable(version: AdapterVersion) -> AdapterUnusable:
    """The error for a version with a fault."""
    what = f"The adapter {quoted(version.ref.short)} of {quoted(version.ref.model)}"
    return AdapterUnusable(f"{what} cannot be loaded: {version.fault}", "model")
