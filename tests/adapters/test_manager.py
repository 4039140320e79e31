from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from adapters.manager import AdapterManager, limits_of
from adapters.residency import ResidencyLimits
from adapters.snapshots import SnapshotStore
from serve.config import load_args
from serve.errors import AdapterUnusable, NotFound, Unavailable
from serve.schemas import AdapterRef
from tests.adapters.files import lora, write_adapter
from tests.adapters.test_catalog import Row


@dataclass(frozen=True)
class Bot:
    model: str = "demo"
    adapters: tuple[str, ...] = ()


@dataclass
class Engine:
    """Takes adapters by reading their files, as engines do, and knows them by their addresses."""

    name: str
    base_path: Path
    slots: int = 2
    max_rank: int = 8
    weights: dict[str, bytes] = field(default_factory=dict)

    async def add_adapter(self, ref: AdapterRef, path: Path) -> None:
        self.weights[ref.address] = (path / "adapter_model.safetensors").read_bytes()
        assert len(self.weights) <= self.slots

    async def remove_adapter(self, ref: AdapterRef) -> None:
        del self.weights[ref.address]


Make = Callable[..., AdapterManager]


@pytest.fixture
def engine(base_path: Path) -> Engine:
    return Engine("demo", base_path)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for value, name in enumerate(("support", "sales", "extra"), start=1):
        write_adapter(tmp_path / "sources" / name, lora(value=value))
    return tmp_path / "sources"


@pytest.fixture
def make(store: SnapshotStore, sources: Path) -> Make:
    bots = {
        "support": Bot(adapters=("french", "support")),
        "sales": Bot(adapters=("sales",)),
        "plain": Bot(),
        "elsewhere": Bot(model="other", adapters=("support",)),
    }

    def make(preload: tuple[str, ...] = (), refresh_s: float = 10_000, **rows: str) -> AdapterManager:
        paths = rows or {name: str(sources / name) for name in ("support", "sales", "extra")}
        adapters: list[Any] = [Row(name, {None: path}, preload=name in preload) for name, path in paths.items()]
        adapters.append(Row("french", {None: str(sources / "french")}, model="other"))
        limits = {"demo": ResidencyLimits(wait_s=0)}
        return AdapterManager(adapters, bots, store, limits=limits, refresh_s=refresh_s)

    return make


@pytest.fixture
async def manager(make: Make, engine: Engine) -> AdapterManager:
    manager = make()
    await manager.register_manager(engine)
    return manager


async def test_a_bots_adapter_gets_into_the_engine(manager: AdapterManager, engine: Engine) -> None:
    ref = await manager.activate_adapters_for_bot("demo", "support")
    assert ref is not None
    assert ref.name == "support"  # not "french", which is for another model
    assert manager.resident() == set(engine.weights) == {ref.address}
    assert ref in [version.ref for version in manager.versions()]


async def test_a_bot_without_an_adapter_for_the_model(manager: AdapterManager, engine: Engine) -> None:
    assert await manager.activate_adapters_for_bot("demo", "plain") is None
    assert engine.weights == {}


async def test_an_unknown_bot(manager: AdapterManager) -> None:
    with pytest.raises(NotFound) as caught:
        await manager.activate_adapters_for_bot("demo", "nobody")
    assert caught.value.code == "bot_not_found"


async def test_bots_change_live(manager: AdapterManager) -> None:
    manager.update_bots({"plain": Bot(adapters=("extra",))})
    ref = manager.adapter_of_bot("demo", "plain")
    assert ref is not None
    assert ref.name == "extra"
    with pytest.raises(NotFound):
        manager.adapter_of_bot("demo", "support")


async def test_limits_change_live(tmp_path: Path, engine: Engine, sources: Path) -> None:
    model = {"name": "demo", "provider": "local", "model_id": str(engine.base_path), "engine": {"max_loras": 1}}
    args = {
        "models": [model | {"limits": {"max_adapter_waiting": 1}}],
        "adapters": [
            {"name": name, "model": "demo", "source": str(sources / name)} for name in ("support", "sales", "extra")
        ],
        "adapter_storage": {"cache_dir": str(tmp_path / "cache")},
    }
    settings = load_args(args, env={})
    manager = AdapterManager.from_settings(settings, ["demo"])
    engine.slots = 1
    await manager.register_manager(engine)
    support, sales, extra = (manager.resolve("demo", name) for name in ("support", "sales", "extra"))
    live = {"models": {"demo": {"limits": {"max_adapter_waiting": 2}}}}
    manager.update_limits(limits_of(settings.with_live(live, env={})))
    async with manager.lease(support):
        waiting = [asyncio.create_task(manager.activate("demo", ref)) for ref in (sales, extra)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert set(engine.weights) == {extra.address}
    await manager.close()


async def test_the_base_never_stands_in_for_an_adapter(make: Make, engine: Engine) -> None:
    manager = make(support="nowhere", sales="nowhere")
    with pytest.raises(Unavailable):  # not None, which would mean the base model
        manager.adapter_of_bot("demo", "support")
    await manager.register_manager(engine)
    with pytest.raises(AdapterUnusable):
        await manager.activate_adapters_for_bot("demo", "support")
    with pytest.raises(AdapterUnusable):
        async with manager.lease(AdapterRef("demo", "support", "0" * 12)):
            pass
    assert engine.weights == {}


async def test_a_lease_is_on_exactly_one_version(manager: AdapterManager, engine: Engine, sources: Path) -> None:
    old = manager.resolve("demo", "support")
    async with manager.lease(old):
        before = dict(engine.weights)
        write_adapter(sources / "support", lora(value=9))
        await manager.refresh()
        new = manager.resolve("demo", "support")
        assert engine.weights == before
        async with manager.lease(new):
            assert manager.resident() == {old.address, new.address}
    shutil.rmtree(sources)
    await manager.activate("demo", manager.resolve("demo", "sales"))  # evicts the old one
    await manager.activate("demo", old)
    assert engine.weights[old.address] == before[old.address]


async def test_versions_that_do_not_exist(manager: AdapterManager) -> None:
    for ref in (AdapterRef("demo", "support", "0123456789ab"), AdapterRef("other", "french", "0123456789ab")):
        with pytest.raises((NotFound, Unavailable)):
            async with manager.lease(ref):
                pass
    with pytest.raises(NotFound, match="not one of 'other'"):
        await manager.activate("other", manager.resolve("demo", "support"))


async def test_preloading_goes_on_past_a_broken_adapter(
    make: Make, engine: Engine, sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = {"sales": "nowhere", "support": str(sources / "support"), "extra": str(sources / "extra")}
    manager = make(preload=("sales", "support"), **paths)
    await manager.register_manager(engine)
    failures = await manager.preload()
    assert {name: type(error) for name, error in failures.items()} == {"demo:sales": AdapterUnusable}
    assert manager.resident() == {manager.resolve("demo", "support").address}
    assert "was not preloaded" in caplog.text


async def test_no_more_is_preloaded_than_there_are_slots(make: Make, engine: Engine) -> None:
    manager = make(preload=("support", "sales", "extra"))
    await manager.register_manager(engine)
    assert await manager.preload() == {}
    assert manager.resident() == {manager.resolve("demo", name).address for name in ("support", "sales")}


async def test_an_engine_may_go_while_adapters_are_preloaded(
    store: SnapshotStore, base_path: Path, sources: Path
) -> None:
    rows = [Row("support", {None: str(sources / "support")}, model=name, preload=True) for name in ("demo", "other")]
    manager = AdapterManager(rows, {}, store)

    class Leaving(Engine):
        @override
        async def add_adapter(self, ref: AdapterRef, path: Path) -> None:
            await super().add_adapter(ref, path)
            manager.unregister_manager("demo")

    other = Engine("other", base_path)
    await manager.register_manager(Leaving("demo", base_path))
    await manager.register_manager(other)
    assert await manager.preload() == {}
    assert set(other.weights) == manager.resident() == {manager.resolve("other", "support").address}
    manager.unregister_manager("other")


async def test_an_engine_that_goes_and_comes_back(manager: AdapterManager, base_path: Path) -> None:
    ref = manager.resolve("demo", "support")
    await manager.activate("demo", ref)
    with pytest.raises(ValueError, match="registered already"):
        await manager.register_manager(Engine("demo", base_path))
    manager.unregister_manager("demo")
    manager.unregister_manager("demo")
    assert manager.resident() == set()
    with pytest.raises(Unavailable, match="not loaded here"):
        await manager.activate("demo", ref)
    again = Engine("demo", base_path)
    await manager.register_manager(again)
    await manager.activate("demo", ref)
    assert set(again.weights) == {ref.address}


async def test_closing_gives_up_the_copies(manager: AdapterManager, store: SnapshotStore) -> None:
    assert store.sweep() == 0
    await manager.close()
    assert store.sweep() == 3
    assert manager.versions() == ()


async def test_work_on_files_leaves_the_event_loop_alone(
    manager: AdapterManager, monkeypatch: pytest.MonkeyPatch, sources: Path
) -> None:
    # A copy that does not end until the loop has turned: on the loop's own thread it never would.
    turned = threading.Event()
    take = SnapshotStore.take

    def slow_take(store: SnapshotStore, model: str, name: str, folder: Path) -> Any:
        assert turned.wait(timeout=10)
        return take(store, model, name, folder)

    monkeypatch.setattr(SnapshotStore, "take", slow_take)
    write_adapter(sources / "support", lora(value=9))
    refreshing = asyncio.create_task(manager.refresh())
    await asyncio.sleep(0)
    async with manager.lease(manager.resolve("demo", "sales")):
        assert not refreshing.done()
        turned.set()
    await refreshing


async def test_sources_are_looked_at_now_and_then(make: Make, engine: Engine, sources: Path) -> None:
    manager = make(refresh_s=0)
    await manager.register_manager(engine)
    old = manager.resolve("demo", "support")
    write_adapter(sources / "support", lora(value=9))
    async with asyncio.timeout(10):
        while manager.resolve("demo", "support") == old:  # noqa: ASYNC110  (until the manager's own task did it)
            await asyncio.sleep(0)
    manager.unregister_manager("demo")


async def test_sources_are_looked_at_again_after_a_time_that_failed(
    make: Make, engine: Engine, sources: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make(refresh_s=0)
    await manager.register_manager(engine)
    old = manager.resolve("demo", "support")
    take, failures = SnapshotStore.take, iter([ArithmeticError("unforeseen")])

    def take_or_fail(store: SnapshotStore, model: str, name: str, folder: Path) -> Any:
        for error in failures:
            raise error
        return take(store, model, name, folder)

    monkeypatch.setattr(SnapshotStore, "take", take_or_fail)
    write_adapter(sources / "support", lora(value=9))
    async with asyncio.timeout(10):
        while manager.resolve("demo", "support") == old:  # noqa: ASYNC110  (until the manager's own task did it)
            await asyncio.sleep(0)
    assert "unforeseen" in caplog.text
    manager.unregister_manager("demo")


async def test_all_of_it_comes_from_the_settings(engine: Engine, sources: Path, tmp_path: Path) -> None:
    settings = load_args(
        {
            "models": [
                {
                    "name": "demo",
                    "provider": "local",
                    "model_id": str(engine.base_path),
                    "engine": {"max_loras": 2},
                }
            ],
            "adapters": [
                {"name": "support", "model": "demo", "source": str(sources / "support"), "preload": True},
                {
                    "name": "sales",
                    "model": "demo",
                    "versions": {"v1": str(sources / "sales"), "v2": str(sources / "extra")},
                    "current": "v2",
                },
            ],
            "bots": {"shop": {"model": "demo", "adapters": ["sales"]}},
            "adapter_storage": {"cache_dir": str(tmp_path / "cache")},
        },
        env={},
    )
    manager = AdapterManager.from_settings(settings, ["demo"])
    await manager.register_manager(engine)
    await manager.preload()
    ref = await manager.activate_adapters_for_bot("demo", "shop")
    assert ref is not None
    assert ref.label == "v2"
    assert manager.resident() == {ref.address, manager.resolve("demo", "support").address}
    assert (tmp_path / "cache" / "demo" / ref.short).is_dir()
