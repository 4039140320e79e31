from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adapters.catalog import NO_DIGEST, Catalog
from adapters.snapshots import SnapshotStore
from adapters.sources import CONFIG_FILE, WEIGHTS_FILE
from serve.errors import AdapterUnusable, NotFound, Unavailable
from serve.registry import Snapshot
from serve.schemas import ReplicaPhase, ReplicaState
from tests.adapters.files import lora, write_adapter


@dataclass(frozen=True)
class Row:
    name: str
    sources: Mapping[str | None, str]
    current_label: str | None = None
    model: str = "demo"
    preload: bool = False


@dataclass
class World:
    """A catalog of the rows, over adapters on disk, with a clock of its own."""

    tmp_path: Path
    base_path: Path
    store: SnapshotStore
    now: float = 100.0
    catalog: Catalog = field(init=False)

    def open(self, *rows: Row, keep_versions: int = 2) -> Catalog:
        self.catalog = Catalog(rows, self.store, keep_versions, clock=lambda: self.now)
        self.catalog.add_model("demo", self.base_path, 8)
        self.catalog.refresh()
        return self.catalog

    def source(self, name: str, value: float = 1) -> str:
        return str(write_adapter(self.tmp_path / "sources" / name, lora(value=value)))

    def change(self, name: str, value: float, in_use: frozenset[str] = frozenset()) -> str:
        """New weights in the same place. Returns the digest that is current then."""
        self.source(name, value)
        self.now += 1
        self.catalog.refresh(in_use)
        return self.catalog.resolve("demo", name).digest

    def copies(self) -> set[str]:
        return {path.name for path in (self.tmp_path / "cache").glob("demo/*")}


@pytest.fixture
def world(tmp_path: Path, base_path: Path, store: SnapshotStore) -> World:
    return World(tmp_path, base_path, store)


def test_an_adapter_is_found_by_name_digest_and_label(world: World) -> None:
    sources: dict[str | None, str] = {"v1": world.source("one", 1), "v2": world.source("two", 2)}
    catalog = world.open(Row("support", sources, "v2"))
    current = catalog.resolve("demo", "support")
    assert current.label == "v2"
    assert catalog.resolve("demo", "support", "v2") == current
    assert catalog.resolve("demo", "support", current.digest) == current
    older = catalog.resolve("demo", "support", "v1")
    assert older.digest != current.digest
    assert {(version.ref, version.current, version.fault) for version in catalog.versions()} == {
        (older, False, None),
        (current, True, None),
    }
    assert (catalog.path(older) / WEIGHTS_FILE).read_bytes() == Path(sources["v1"], WEIGHTS_FILE).read_bytes()


def test_two_labels_may_hold_the_same_files_and_routers_know_both(world: World) -> None:
    source = world.source("one")
    catalog = world.open(Row("support", {"v2": source, "stable": source}, "stable"))
    state = ReplicaState("r1", "http://r1:1", ReplicaPhase.READY, ("demo",), 8, adapters=catalog.versions())
    snapshot = Snapshot("e", 1, rebuilding=False, replicas=(state,))
    digest = catalog.resolve("demo", "support").digest
    for asked in (None, "v2", "stable", digest):
        ref = catalog.resolve("demo", "support", asked)
        assert ref.digest == digest
        assert snapshot.resolve_adapter("demo", "support", asked) == ref


def test_a_number_that_no_float_can_hold_is_the_fault_of_its_adapter_alone(world: World) -> None:
    sound, broken = world.source("support"), world.source("sales")
    write_adapter(Path(broken), lora_alpha=10**400)
    catalog = world.open(Row("sales", {None: broken}), Row("support", {None: sound}))
    assert catalog.resolve("demo", "support").name == "support"
    with pytest.raises(AdapterUnusable, match="lora_alpha"):
        catalog.resolve("demo", "sales")


@pytest.mark.parametrize(
    ("model", "name", "version"),
    [
        ("demo", "nobody", None),
        ("other", "support", None),
        ("demo", "support", "v9"),
        ("demo", "support", "0123456789ab"),
        ("demo", "../../etc", None),
        ("demo", "x" * 1_000_000, "\x1b[31m\n"),
    ],
)
def test_unknown_names_are_not_found_without_looking(world: World, model: str, name: str, version: str | None) -> None:
    catalog = world.open(Row("support", {None: world.source("support")}))
    shutil.rmtree(world.tmp_path / "sources")
    shutil.rmtree(world.tmp_path / "cache")
    with pytest.raises(NotFound) as caught:
        catalog.resolve(model, name, version)
    assert caught.value.code == "adapter_not_found"
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


def test_what_has_not_been_looked_at_is_not_there_yet(world: World) -> None:
    catalog = Catalog([Row("support", {None: world.source("support")})], world.store)
    with pytest.raises(Unavailable):
        catalog.resolve("demo", "support")
    assert catalog.has("demo", "support")
    assert not catalog.has("demo", "sales")
    assert catalog.versions() == ()


def test_changed_files_are_a_new_version_beside_the_old_one(world: World) -> None:
    catalog = world.open(Row("support", {None: world.source("support")}))
    first = catalog.resolve("demo", "support")
    kept = (catalog.path(first) / WEIGHTS_FILE).read_bytes()
    second = world.change("support", 2)
    assert second != first.digest
    assert catalog.resolve("demo", "support", first.digest) == first
    assert (catalog.path(first) / WEIGHTS_FILE).read_bytes() == kept
    assert [(version.current, version.since) for version in catalog.versions()] == [(False, 100), (True, 101)]


def test_a_file_that_is_touched_and_not_changed_is_no_version(world: World) -> None:
    catalog = world.open(Row("support", {None: world.source("support")}))
    before = catalog.versions()
    world.change("support", 1)
    assert catalog.versions() == before


def test_unchanged_files_are_not_read_again(world: World) -> None:
    catalog = world.open(Row("support", {None: world.source("support")}))
    before = catalog.versions()
    (world.tmp_path / "cache" / ".lock").unlink()  # which every copy would make anew
    catalog.refresh()
    assert catalog.versions() == before
    assert not (world.tmp_path / "cache" / ".lock").exists()


def test_a_rollback_makes_the_old_version_the_newest_again(world: World) -> None:
    catalog = world.open(Row("support", {None: world.source("support")}))
    first = catalog.resolve("demo", "support")
    world.change("support", 2)
    assert world.change("support", 1) == first.digest
    current = [version for version in catalog.versions() if version.current]
    assert [(version.ref, version.since) for version in current] == [(first, 102)]
    assert len(catalog.versions()) == 2


def test_superseded_versions_are_kept_up_to_a_bound_and_while_in_use(world: World) -> None:
    catalog = world.open(Row("support", {None: world.source("support", 1)}), keep_versions=1)
    first = catalog.resolve("demo", "support")
    second = world.change("support", 2)
    third = world.change("support", 3, in_use=frozenset({first.address}))
    assert world.copies() == {f"support@{digest}" for digest in (first.digest, second, third)}
    catalog.refresh()
    assert world.copies() == {f"support@{digest}" for digest in (second, third)}
    with pytest.raises(NotFound):
        catalog.resolve("demo", "support", first.digest)
    with pytest.raises(NotFound):
        catalog.path(first)


def test_copies_that_an_earlier_run_left_are_removed(world: World) -> None:
    world.open(Row("support", {None: world.source("support")})).close()
    world.open(Row("sales", {None: world.source("sales", 2)}))
    assert [name.partition("@")[0] for name in world.copies()] == ["sales"]


def test_a_source_that_breaks_leaves_the_good_version_current(world: World) -> None:
    source = Path(world.source("support"))
    catalog = world.open(Row("support", {"v1": str(source)}, "v1"))
    good = catalog.resolve("demo", "support")

    write_adapter(source, lora(rows=16))
    world.now += 1
    catalog.refresh()
    catalog.refresh()
    assert catalog.resolve("demo", "support") == catalog.resolve("demo", "support", "v1") == good
    (fault,) = [version for version in catalog.versions() if version.fault]
    assert (fault.current, fault.since, fault.ref.label) == (False, 101, None)
    assert "another model's" in (fault.fault or "")
    with pytest.raises(AdapterUnusable, match="another model's"):
        catalog.resolve("demo", "support", fault.ref.digest)

    shutil.rmtree(source)
    catalog.refresh()
    assert catalog.resolve("demo", "support") == good
    assert [version.fault for version in catalog.versions()][1:] == ["Its folder does not exist or cannot be read."]

    world.source("support")
    catalog.refresh()
    assert [(version.ref, version.fault) for version in catalog.versions()] == [(good, None)]


def test_an_adapter_that_never_worked_is_unusable_and_not_unknown(world: World) -> None:
    broken = write_adapter(world.tmp_path / "broken", use_dora=True)
    rows = Row("support", {None: str(broken)}), Row("sales", {"v1": "nowhere"}, "v1")
    catalog = world.open(*rows)
    with pytest.raises(AdapterUnusable, match=r"'support@[0-9a-f]{12}' of 'demo' cannot be loaded: It uses DoRA"):
        catalog.resolve("demo", "support")
    for version in (None, "v1"):
        with pytest.raises(AdapterUnusable, match="folder does not exist"):
            catalog.resolve("demo", "sales", version)
    assert [(one.current, one.ref.digest == NO_DIGEST) for one in catalog.versions()] == [(True, False), (True, True)]

    write_adapter(broken)
    catalog.refresh()
    assert catalog.resolve("demo", "support").name == "support"


def test_one_broken_adapter_harms_no_other(world: World) -> None:
    catalog = world.open(Row("broken", {None: "nowhere"}), Row("support", {None: world.source("support")}))
    assert catalog.resolve("demo", "support").name == "support"


def test_what_may_go_better_next_time_is_tried_again(world: World) -> None:
    (world.tmp_path / "cache").write_text("a file in the way")
    catalog = world.open(Row("support", {None: world.source("support")}))
    with pytest.raises(AdapterUnusable, match="could not be copied"):
        catalog.resolve("demo", "support")
    (world.tmp_path / "cache").unlink()
    catalog.refresh()
    assert catalog.resolve("demo", "support").name == "support"


def test_messages_show_no_path(world: World) -> None:
    (Path(world.source("support")) / CONFIG_FILE).write_text("{")
    catalog = world.open(
        Row("support", {None: str(world.tmp_path / "sources" / "support")}),
        Row("sales", {None: str(world.tmp_path / "secret-place")}),
    )
    for name in ("support", "sales"):
        with pytest.raises(AdapterUnusable) as caught:
            catalog.resolve("demo", name)
        assert str(world.tmp_path) not in str(caught.value)


def test_what_to_preload(world: World) -> None:
    source = world.source("support")
    catalog = world.open(
        Row("support", {"v1": source, "v2": source}, "v1", preload=True),
        Row("sales", {None: source}),
        Row("other", {None: source}, model="other", preload=True),
    )
    assert catalog.to_preload("demo") == ("support",)
