"""A model of the hub: brought once by the real client, then run as any other; the hub is on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
from huggingface_hub import close_session
from typing_extensions import override

from deployments.engine_manager import Engine
from deployments.huggingface_manager import HuggingFaceManager
from serve.config import EngineConfig, load_args
from serve.errors import ConfigError
from tests.adapters.files import lora, write_adapter, write_base
from tests.fakes.engine import FakeEngine
from tests.fakes.hub import Break, FakeHub, listening

REPOSITORY, REVISION = "acme/tiny", "a" * 40
TOKEN = "hf_canary_of_the_operator"


class Manager(HuggingFaceManager):
    """`HuggingFaceManager` but for what runs the models."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.engines: list[FakeEngine] = []
        self.ran_code: list[bool] = []

    @override
    async def _start_engine(self, name: str, path: Path, config: EngineConfig, *, run_code: bool = False) -> Engine:
        self.engines.append(FakeEngine(name, path, slots=config.adapter_slots))
        self.ran_code.append(run_code)
        return self.engines[-1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    stamina.set_testing(True, attempts=4, cap=True)
    yield
    stamina.set_testing(False)
    close_session()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    write_base(tmp_path / "base")
    files = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    with listening(
        FakeHub(repos={REPOSITORY: {REVISION: files | {"code.py": b"1", "pytorch_model.bin": b"2"}}})
    ) as hub:
        yield hub


def manager(hub: FakeHub, folder: Path, **model: Any) -> Manager:
    entry = {
        "name": "tiny",
        "provider": "huggingface",
        "model_id": REPOSITORY,
        "revision": REVISION,
        "hub": hub.url,
        "cache_dir": str(folder / "hub"),
        "engine": {"max_loras": 1},
    }
    write_adapter(folder / "support", lora(value=1))
    args = {
        "models": [entry | model],
        "adapters": [{"name": "support", "model": "tiny", "source": str(folder / "support")}],
        "adapter_storage": {"cache_dir": str(folder / "adapters")},
    }
    return Manager.from_settings(load_args(args, env={"HF_TOKEN": TOKEN}), "tiny")


async def test_a_model_is_brought_once_and_answers(hub: FakeHub, tmp_path: Path) -> None:
    for _ in range(2):
        one = manager(hub, tmp_path)
        await one.start()
        assert "Hello" in await one.generate_response("Hello")
        (engine,) = one.engines
        assert (engine.base_path / "config.json").is_file()
        assert sorted(path.suffix for path in engine.base_path.iterdir() if path.suffix in {".py", ".bin"}) == []
        await one.close()
        assert engine.closed
    assert set(hub.counts().values()) == {1}


async def test_it_takes_adapters_as_a_local_one_does(hub: FakeHub, tmp_path: Path) -> None:
    one = manager(hub, tmp_path)
    await one.start()
    ref = await one.activate_adapter("tiny", "support")
    assert one.adapter_manager.resident() == {ref.address}
    await one.close()


async def test_a_broken_download_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    (weights,) = (name for name in hub.repos[REPOSITORY][REVISION] if name.endswith(".safetensors"))
    hub.breaks[weights] = Break(after=100)
    one = manager(hub, tmp_path)
    await one.start()
    assert hub.ranges(weights) == [None, "bytes=100-"]
    await one.close()


async def test_code_runs_only_where_the_config_allows_it(hub: FakeHub, tmp_path: Path) -> None:
    one = manager(hub, tmp_path, trust_remote_code=True)
    await one.start()
    assert one.ran_code == [True]
    assert (one.engines[0].base_path / "code.py").is_file()
    await one.close()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"model_id": "acme/nothing"}, "acme/nothing"),
        ({"revision": "b" * 40}, "b" * 40),
        ({"token": "${HF_TOKEN}", "model_id": "acme/gated"}, "acme/gated"),
    ],
)
async def test_what_a_person_must_mend_is_said_without_the_token(
    hub: FakeHub, tmp_path: Path, model: dict[str, Any], said: str
) -> None:
    hub.repos["acme/gated"] = hub.repos[REPOSITORY]
    hub.tokens, hub.gated = {TOKEN}, {"acme/gated": set()}
    one = manager(hub, tmp_path, **model)
    with pytest.raises(ConfigError) as refused:
        await one.start()
    assert said in str(refused.value)
    assert TOKEN not in str(refused.value)
    await one.close()
