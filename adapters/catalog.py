"""Which adapters there are, in which versions, and which version is current.

(What the engine holds of them is the affair of `residency`.)

The configuration names folders; their contents make the versions. When a folder's files change, what they
hold now becomes a new version. If that one is sound it becomes current, and the one before stays addressable
by its digest; if not, the one before stays current and the fault is shown beside it. A folder that is gone is
such a fault too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from adapters.base_model import BaseModel
from adapters.snapshots import Snapshot, SnapshotStore
from adapters.sources import Fingerprint, fetch, fingerprint
from adapters.validate import validate
from serve.adapter_versions import resolve_version
from serve.errors import AdapterUnusable, NotFound, Unavailable
from serve.quoting import quoted
from serve.schemas import AdapterRef, AdapterVersion

logger = logging.getLogger(__name__)

NO_DIGEST = "0" * 12
"""Stands in the address of a version whose files could not even be read."""

_RETRY_AFTER_S = 1.0


class AdapterRow(Protocol):
    """What the catalog needs to know of a configured adapter."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def sources(self) -> Mapping[str | None, str]:
        """The source of each version by its label; None is the label of an only one without."""
        ...

    @property
    def current_label(self) -> str | None:
        """Which of the sources `model:name` means."""
        ...

    @property
    def preload(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Good:
    """A version that can be loaded."""

    ref: AdapterRef
    since: float
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with a source now, written for the caller."""

    message: str
    since: float
    digest: str = NO_DIGEST


@dataclass(frozen=True, slots=True)
class _Track:
    """One source and what it has held: the last of `versions` is what its label means."""

    row: AdapterRow
    label: str | None
    source: str
    seen: Fingerprint | None = None
    versions: tuple[_Good, ...] = ()
    fault: _Fault | None = None

    @property
    def current(self) -> bool:
        return self.label == self.row.current_label

    def ref(self, digest: str, label: str | None = None) -> AdapterRef:
        return AdapterRef(self.row.model, self.row.name, digest, label)

    def advertised(self) -> Iterator[AdapterVersion]:
        for good in self.versions:
            yield AdapterVersion(good.ref, self.current and good is self.versions[-1], good.since)
        if self.fault is not None:
            # The label and `current` stay with a good version as long as there is one.
            alone = not self.versions
            ref = self.ref(self.fault.digest, self.label if alone else None)
            yield AdapterVersion(ref, self.current and alone, self.fault.since, self.fault.message)


@dataclass(frozen=True, slots=True)
class _View:
    """What readers see. Replaced as a whole, so that they need no lock while another thread refreshes."""

    advertised: tuple[AdapterVersion, ...] = ()
    by_name: Mapping[tuple[str, str], tuple[AdapterVersion, ...]] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    """By the address of each version that can be loaded."""

    @classmethod
    def of(cls, tracks: Iterable[_Track]) -> _View:
        by_name: dict[tuple[str, str], tuple[AdapterVersion, ...]] = {}
        paths: dict[str, Path] = {}
        for track in tracks:
            key = (track.row.model, track.row.name)
            by_name[key] = (*by_name.get(key, ()), *track.advertised())
            paths |= {good.ref.address: good.snapshot.path for good in track.versions}
        advertised = tuple(version for versions in by_name.values() for version in versions)
        return cls(advertised, by_name, paths)


class Catalog:
    """The adapters of the models that `add_model` has named.

    `add_model`, `refresh` and `close` block on the disk, and may be called from any thread. The others do no
    I/O. `keep_versions` is how many superseded versions of a source stay addressable though nobody uses them.
    """

    def __init__(
        self,
        rows: Iterable[AdapterRow],
        store: SnapshotStore,
        keep_versions: int = 3,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tracks = [_Track(row, label, source) for row in rows for label, source in row.sources.items()]
        self._configured = frozenset((track.row.model, track.row.name) for track in self._tracks)
        self._store = store
        self._keep_versions = keep_versions
        self._clock = clock
        self._bases: dict[str, tuple[BaseModel, int]] = {}
        self._view = _View()
        self._changing = threading.Lock()

    def add_model(self, model: str, base_path: Path, max_rank: int) -> None:
        """From the next refresh on, look at the adapters of `model`, whose files are in `base_path`."""
        base = BaseModel.read(base_path)
        with self._changing:
            self._bases[model] = (base, max_rank)

    def refresh(self, in_use: Collection[str] = ()) -> None:
        """Look at every source again: two `stat` calls each where nothing has changed.

        `in_use` are addresses of versions that must stay. Never raises for what is wrong with a source.
        """
        with self._changing:
            self._refresh(in_use)

    def resolve(self, model: str, name: str, version: str | None = None) -> AdapterRef:
        """The version that `model:name[@version]` means now; `version` is a digest or a label.

        By the rule of `serve.adapter_versions`. Raises as that does, and `Unavailable` as long as the adapter's
        files have not been looked at.
        """
        versions = self._view.by_name.get((model, name), ())
        if not versions and self.has(model, name):
            what = f"The adapter {quoted(name)} of {quoted(model)}"
            raise Unavailable(f"{what} is not ready yet.", retry_after_s=_RETRY_AFTER_S)
        return resolve_version(model, name, version, versions)

    def path(self, ref: AdapterRef) -> Path:
        """The folder with the files of exactly this version. Raises as `resolve` does."""
        path = self._view.paths.get(ref.address)
        if path is None:
            self.resolve(ref.model, ref.name, ref.digest)  # says what is the matter
            raise NotFound(f"The adapter {quoted(ref.address)} is gone.", "model", "adapter_not_found")
        return path

    def has(self, model: str, name: str) -> bool:
        """Whether such an adapter is configured, sound or not."""
        return (model, name) in self._configured

    def versions(self) -> tuple[AdapterVersion, ...]:
        """Every version there is, with what is wrong where something is."""
        return self._view.advertised

    def to_preload(self, model: str) -> tuple[str, ...]:
        """The names of the adapters of `model` that should be in the engine from the start."""
        names = (track.row.name for track in self._tracks if track.row.model == model and track.row.preload)
        return tuple(dict.fromkeys(names))

    def close(self) -> None:
        """Give every copy up, so that another process may remove it. Nothing can be loaded afterwards."""
        with self._changing:
            tracks, self._tracks, self._view = self._tracks, [], _View()
        for good in (good for track in tracks for good in track.versions):
            good.snapshot.release()

    def _refresh(self, in_use: Collection[str]) -> None:
        tracks, dropped = [], []
        for track in self._tracks:
            if track.row.model in self._bases:
                track, old = self._pruned(self._looked_at(track), in_use)
                dropped += old
            tracks.append(track)
        changed, self._tracks = tracks != self._tracks, tracks
        self._view = _View.of(track for track in tracks if track.row.model in self._bases)
        for good in dropped:
            good.snapshot.release()
        if changed:
            self._sweep()

    def _sweep(self) -> None:
        try:
            self._store.sweep()
        except OSError:
            logger.warning("copies of adapters that nobody uses could not be removed", exc_info=True)

    def _looked_at(self, track: _Track) -> _Track:
        try:
            folder = fetch(track.source)
            seen = fingerprint(folder)
            if seen == track.seen:
                return track
            return self._read(track, folder, seen)
        except AdapterUnusable as error:
            fault = self._fault(track, error.message)
        except OSError:
            fault = self._fault(track, "Its files could not be read.")
        return replace(track, seen=None, fault=fault)

    def _read(self, track: _Track, folder: Path, seen: Fingerprint) -> _Track:
        try:
            snapshot = self._store.take(track.row.model, track.row.name, folder)
        except Unavailable as error:  # may be better next time, so the files do not count as seen
            return replace(track, seen=None, fault=self._fault(track, error.message))
        except AdapterUnusable as error:
            return replace(track, seen=seen, fault=self._fault(track, error.message))
        base, max_rank = self._bases[track.row.model]
        try:
            validate(snapshot.path, base, max_rank)
        except AdapterUnusable as error:
            snapshot.release()
            return replace(track, seen=seen, fault=self._fault(track, error.message, snapshot.digest))
        except BaseException:
            snapshot.release()
            raise
        return self._with(track, snapshot, seen)

    def _with(self, track: _Track, snapshot: Snapshot, seen: Fingerprint) -> _Track:
        """`snapshot` becomes what the track's label means. It may have been that before, now or earlier."""
        versions = track.versions
        known = next((good for good in versions if good.ref.digest == snapshot.digest), None)
        if known is not None:
            snapshot.release()
            snapshot = known.snapshot
        if known is None or known is not versions[-1]:
            good = _Good(track.ref(snapshot.digest, track.label), self._clock(), snapshot)
            versions = (*(one for one in versions if one is not known), good)
        return replace(track, seen=seen, versions=versions, fault=None)

    def _fault(self, track: _Track, message: str, digest: str = NO_DIGEST) -> _Fault:
        """Since when: from its first appearance on."""
        known = track.fault
        if known is not None and (known.message, known.digest) == (message, digest):
            return known
        return _Fault(message, self._clock(), digest)

    def _pruned(self, track: _Track, in_use: Collection[str]) -> tuple[_Track, list[_Good]]:
        """Without the superseded versions that are too old to keep and not in use; and those."""
        superseded = track.versions[:-1]
        old = superseded[: max(0, len(superseded) - self._keep_versions)]
        dropped = [good for good in old if good.ref.address not in in_use]
        return replace(track, versions=tuple(one for one in track.versions if one not in dropped)), dropped
