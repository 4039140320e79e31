from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
import stamina
from huggingface_hub import close_session, constants, scan_cache_dir
from pydantic import SecretStr

from serve import hub as hub_module
from serve.errors import ConfigError, Unavailable
from serve.hub import ATTEMPTS, Hub, HubModel
from tests.fakes.hub import PATIENCE_S, Break, FakeHub, listening

ROOT = Path(__file__).parents[2]
REVISION, OTHER, THIRD = "1" * 40, "2" * 40, "3" * 40
MODEL = HubModel("org/name", REVISION)
TOKEN = "hf_secretsecretsecret"
WEIGHTS = "model.safetensors"
DATA = bytes(range(256)) * 4000
LARGE = 1 << 30


def files(weights: bytes = DATA, **more: bytes) -> dict[str, bytes]:
    return {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', WEIGHTS: weights} | more


@pytest.fixture(autouse=True)
def no_waits() -> Iterator[None]:
    """Retries as in production, but for the waits between them."""
    stamina.set_testing(True, attempts=ATTEMPTS, cap=True)
    yield
    stamina.set_testing(False)


@pytest.fixture(autouse=True, scope="module")
def no_connections_left() -> Iterator[None]:
    yield
    close_session()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("HF_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[FakeHub]:
    repos = {"org/name": {REVISION: files()}}
    with listening(FakeHub(repos, tokens={TOKEN})) as hub:
        yield hub


class Said(list[str]):
    """What was said, and when."""

    def __init__(self) -> None:
        super().__init__()
        self._new = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._new:
            self.append(line)
            self._new.notify_all()

    def wait_for(self, part: str) -> None:
        with self._new:
            assert self._new.wait_for(lambda: any(part in line for line in self), PATIENCE_S)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(server: FakeHub, cache: Path, said: Said) -> Hub:
    return Hub(cache, LARGE, endpoint=server.url, say=said)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fault(error: pytest.ExceptionInfo[ConfigError]) -> str:
    (line,) = error.value.faults
    return line


# What is brought


def test_a_snapshot_holds_the_bytes_of_the_revision_in_the_layout_of_the_hubs_own_cache(hub: Hub, cache: Path) -> None:
    folder = hub.fetch(MODEL)
    assert folder == cache / "models--org--name" / "snapshots" / REVISION
    assert {name: (folder / name).read_bytes() for name in names(folder)} == files()
    info = scan_cache_dir(cache)
    assert not info.warnings
    assert not info.incomplete_files
    assert [(repo.repo_id, repo.size_on_disk) for repo in info.repos] == [("org/name", len(DATA) + 10)]


def test_only_what_an_engine_reads_is_brought(server: FakeHub, hub: Hub) -> None:
    want = {
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "merges.txt",
        "chat_template.jinja",
        "LICENSE",
        "NOTICE.txt",
        "USE_POLICY.md",
        "1_Pooling/config.json",
        "empty.json",
    }
    suffixes = ("bin", "pt", "pth", "msgpack", "h5", "gguf", "onnx", "ot", "py", "pkl", "gitattributes")
    leave = {*(f"pytorch_model.{suffix}" for suffix in suffixes), "README.md", "original/params.json", ".gitattributes"}
    server.repos["org/name"][REVISION] = files(**{name: name.encode() for name in want | leave})
    server.repos["org/name"][REVISION]["empty.json"] = b""
    assert names(hub.fetch(MODEL)) == want | set(files())


def test_a_large_file_is_no_licence(server: FakeHub, hub: Hub) -> None:
    server.repos["org/name"][REVISION]["LICENSE"] = b"x" * ((1 << 20) + 1)
    assert names(hub.fetch(MODEL)) == set(files())


def test_the_same_weights_in_a_second_layout_are_left_out_unless_they_are_the_only_ones(
    server: FakeHub, hub: Hub
) -> None:
    server.repos["org/name"][REVISION]["consolidated.safetensors"] = b"again"
    server.repos["org/name"][OTHER] = {"params.json": b"{}", "consolidated.safetensors": b"again"}
    assert names(hub.fetch(MODEL)) == set(files())
    assert names(hub.fetch(HubModel("org/name", OTHER))) == {"params.json", "consolidated.safetensors"}


def test_code_is_brought_only_when_it_is_allowed(server: FakeHub, hub: Hub) -> None:
    server.repos["org/name"][REVISION]["modeling.py"] = b"pass"
    assert "modeling.py" not in names(hub.fetch(MODEL))
    assert "modeling.py" in names(hub.fetch(MODEL, allow_code=True))
    assert server.counts()[WEIGHTS] == 1


def test_code_of_another_repository_is_refused_each_time_it_could_run(server: FakeHub, hub: Hub) -> None:
    config = b'{"auto_map": {"AutoModel": "other/repo--modeling.Model"}}'
    server.repos["org/name"][REVISION] |= {"config.json": config}
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            hub.fetch(MODEL, allow_code=True)
        assert "'other/repo'" in fault(caught)
    hub.fetch(MODEL)


def test_what_is_complete_on_disk_needs_no_hub(hub: Hub, server: FakeHub, cache: Path) -> None:
    folder = hub.fetch(MODEL)
    server.requests.clear()
    assert hub.fetch(MODEL) == folder
    assert Hub(cache, LARGE, endpoint="http://127.0.0.1:9", stall_s=0.1).fetch(MODEL) == folder
    assert server.requests == []


def test_what_was_lost_on_disk_is_brought_again_and_nothing_else(hub: Hub, server: FakeHub) -> None:
    folder = hub.fetch(MODEL)
    (folder / "config.json").resolve().unlink()
    server.requests.clear()
    assert (hub.fetch(MODEL) / "config.json").read_bytes() == b"{}"
    assert server.paths() == ["config.json"]


def test_equal_files_come_once(server: FakeHub, hub: Hub) -> None:
    server.repos["org/name"][REVISION]["copy.safetensors"] = DATA
    folder = hub.fetch(MODEL)
    assert (folder / "copy.safetensors").read_bytes() == (folder / WEIGHTS).read_bytes() == DATA
    assert len(server.paths()) == len(files())


def test_what_another_revision_has_does_not_come_again(server: FakeHub, hub: Hub) -> None:
    server.repos["org/name"][OTHER] = files(**{"special.json": b"other"})
    hub.fetch(MODEL)
    server.requests.clear()
    assert names(hub.fetch(HubModel("org/name", OTHER))) == {*files(), "special.json"}
    assert server.paths() == ["special.json"]


# What is refused


@pytest.mark.parametrize("repo_id", ["name", "a/b/c", "../x", "org/..", "org/a--b", "-a/b", "", "org/na me"])
def test_a_name_that_is_none_is_refused(repo_id: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a repository"):
        HubModel(repo_id, REVISION)


@pytest.mark.parametrize("revision", ["main", "1" * 39, "G" * 40, "../" + "1" * 37, ""])
def test_a_revision_that_is_no_commit_is_refused(revision: str) -> None:
    with pytest.raises(ConfigError, match="is not a commit"):
        HubModel("org/name", revision)


def test_a_name_that_only_the_client_refuses(hub: Hub) -> None:
    with pytest.raises(ConfigError, match="is not the name of a repository"):
        hub.fetch(HubModel("org/name.git", REVISION))


def test_a_repository_without_safetensors_is_refused(server: FakeHub, hub: Hub) -> None:
    server.repos["org/name"][REVISION] = {"config.json": b"{}", "pytorch_model.bin": b"cos\nsystem\n"}
    with pytest.raises(ConfigError) as error:
        hub.fetch(MODEL)
    assert fault(error) == "models: org/name: has no weights in safetensors, the only format that is read"
    assert server.paths() == []


@pytest.mark.parametrize(("token", "why"), [(None, "no token was given"), (TOKEN, "the token's owner may not see it")])
def test_an_unknown_repository_is_refused(server: FakeHub, cache: Path, token: str | None, why: str) -> None:
    hub = Hub(cache, LARGE, endpoint=server.url, token=SecretStr(token) if token else None)
    with pytest.raises(ConfigError) as error:
        hub.fetch(HubModel("org/none", REVISION))
    assert fault(error) == f"models: org/none: the hub has no such repository; or it is private, and {why}"
    assert len(server.requests) == 1


def test_an_unknown_revision_is_refused(hub: Hub) -> None:
    with pytest.raises(ConfigError) as error:
        hub.fetch(HubModel("org/name", OTHER))
    assert fault(error) == f"models: org/name: the hub has no revision {OTHER} of it"


@pytest.mark.parametrize(("token", "why"), [(None, "no token was given"), (TOKEN, "the token's owner has none")])
def test_a_gated_repository_is_refused_before_anything_goes_for_it(
    server: FakeHub, cache: Path, said: Said, token: str | None, why: str
) -> None:
    hub = Hub(cache, len(DATA) + 100, endpoint=server.url, token=SecretStr(token) if token else None, say=said)
    hub.fetch(MODEL)
    server.repos["org/gated"] = {REVISION: files(DATA[1:])}
    server.gated["org/gated"] = set()
    said.clear()
    with pytest.raises(ConfigError) as error:
        hub.fetch(HubModel("org/gated", REVISION))
    advice = "ask for access at the hub, and give the token of somebody who has it"
    assert fault(error) == f"models: org/gated: is gated, and {why}: {advice}"
    assert said == []
    server.requests.clear()
    hub.fetch(MODEL)
    assert server.requests == []


def test_a_gated_repository_is_brought_for_who_has_access(server: FakeHub, cache: Path) -> None:
    server.gated["org/name"] = {TOKEN}
    folder = Hub(cache, LARGE, endpoint=server.url, token=SecretStr(TOKEN)).fetch(MODEL)
    assert names(folder) == set(files())


def test_a_bad_token_is_refused_and_not_shown(
    server: FakeHub, cache: Path, said: Said, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad = "hf_thisisabadtoken"
    with pytest.raises(ConfigError) as error:  # the fake's answer repeats the token
        Hub(cache, LARGE, endpoint=server.url, token=SecretStr(bad), say=said).fetch(MODEL)
    assert fault(error) == "models: org/name: the hub does not accept the token"
    shown = "".join(traceback.format_exception(error.value))
    records = "".join(str(vars(record)) for record in caplog.records)
    for text in (shown, records, str(said), repr(error.value), str(pickle.dumps(error.value))):
        assert bad not in text


def test_a_hub_that_wants_a_token_for_all(server: FakeHub, hub: Hub) -> None:
    server.failures = [401]
    with pytest.raises(ConfigError, match="the hub wants a token, and none was given"):
        hub.fetch(MODEL)


def test_a_refusal_of_another_kind_says_its_status(server: FakeHub, hub: Hub) -> None:
    server.failures = [403]
    with pytest.raises(ConfigError, match="the hub refuses it with status 403"):
        hub.fetch(MODEL)
    assert len(server.requests) == 1


def test_a_repository_larger_than_the_cache_is_refused_before_a_byte_comes(server: FakeHub, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 0\.0 GiB, and the cache takes at most 0\.0"):
        Hub(cache, len(DATA), endpoint=server.url).fetch(MODEL)
    assert server.paths() == []


@pytest.mark.parametrize("path", ["../../x.json", "/etc/x.json", "a/../../x.json"])
def test_paths_that_lead_out_of_the_cache_are_refused(server: FakeHub, hub: Hub, tmp_path: Path, path: str) -> None:
    server.repos["org/name"][REVISION][path] = b"{}"
    with pytest.raises(Unavailable, match="its list of files was not a hub's"):
        hub.fetch(MODEL)
    assert not list(tmp_path.rglob("x.json"))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"siblings": [{"rfilename": "a"}], "id": "org/name"}'])
def test_an_answer_that_is_no_hubs_may_be_one_next_time(server: FakeHub, hub: Hub, body: bytes) -> None:
    server.listing = body
    with pytest.raises((Unavailable, ConfigError), match=r"not a hub's|no weights"):
        hub.fetch(MODEL)


# What breaks, and goes on


def test_a_broken_download_goes_on_where_it_broke_off(server: FakeHub, hub: Hub) -> None:
    server.breaks[WEIGHTS] = Break(after=300_000)
    assert (hub.fetch(MODEL) / WEIGHTS).read_bytes() == DATA
    assert server.ranges(WEIGHTS) == [None, "bytes=300000-"]


def test_a_reset_connection_costs_no_more_than_what_was_on_its_way(server: FakeHub, hub: Hub) -> None:
    server.breaks[WEIGHTS] = Break(after=300_000, reset=True)
    assert (hub.fetch(MODEL) / WEIGHTS).read_bytes() == DATA
    assert server.counts()[WEIGHTS] == 2


def test_after_some_attempts_it_gives_up_and_the_next_call_goes_on(server: FakeHub, hub: Hub, cache: Path) -> None:
    server.breaks[WEIGHTS] = Break(after=100_000, times=1000)
    with pytest.raises(Unavailable, match="could not be brought from the hub: the connection failed") as error:
        hub.fetch(MODEL)
    assert error.value.retry_after_s
    assert server.counts()[WEIGHTS] == ATTEMPTS
    server.breaks.clear()
    server.requests.clear()
    another_process = Hub(cache, LARGE, endpoint=server.url)
    assert (another_process.fetch(MODEL) / WEIGHTS).read_bytes() == DATA
    assert server.ranges(WEIGHTS) == [f"bytes={ATTEMPTS * 100_000}-"]
    assert server.counts()["config.json"] <= 1


def test_a_hub_that_ignores_ranges_is_read_from_the_start(server: FakeHub, hub: Hub) -> None:
    server.breaks[WEIGHTS] = Break(after=300_000)
    server.no_ranges = True
    assert (hub.fetch(MODEL) / WEIGHTS).read_bytes() == DATA
    assert server.ranges(WEIGHTS) == [None, "bytes=300000-"]


def test_wrong_bytes_never_reach_a_snapshot(server: FakeHub, hub: Hub, cache: Path) -> None:
    server.corrupt = {WEIGHTS, "config.json"}
    folder = hub.fetch(MODEL)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == files()
    assert server.ranges(WEIGHTS) == [None, None]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_hub_in_trouble_is_asked_again(server: FakeHub, hub: Hub, status: int) -> None:
    server.failures = [status, status]
    server.retry_after = "7"
    assert names(hub.fetch(MODEL)) == set(files())


def test_a_hub_that_stays_in_trouble_is_unavailable(server: FakeHub, hub: Hub) -> None:
    server.failures = [503] * 100
    with pytest.raises(Unavailable, match="it answered with status 503") as error:
        hub.fetch(MODEL)
    assert len(server.requests) == ATTEMPTS
    assert server.url not in str(error.value)


def test_a_hub_says_when_to_come_again() -> None:
    assert hub_module._wait(hub_module._Broken("", 7.0)) == 7.0
    assert hub_module._wait(hub_module._Broken("")) is True
    assert hub_module._wait(ValueError()) is False


def test_a_read_in_which_nothing_comes_is_made_again(server: FakeHub, cache: Path) -> None:
    server.stalls[WEIGHTS] = 200_000
    folder = Hub(cache, LARGE, endpoint=server.url, stall_s=0.2).fetch(MODEL)
    assert (folder / WEIGHTS).read_bytes() == DATA
    assert server.ranges(WEIGHTS) == [None, "bytes=200000-"]


def test_nobody_listens(cache: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match=r"the connection failed \(ConnectError\)"):
            Hub(cache, LARGE, endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}").fetch(MODEL)


def test_a_cache_that_cannot_be_written(server: FakeHub, cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(Unavailable, match="could not be written to the cache") as error:
        Hub(cache, LARGE, endpoint=server.url).fetch(MODEL)
    assert str(cache) not in str(error.value)


def test_one_file_that_fails_for_good_stops_the_others(server: FakeHub, cache: Path) -> None:
    parts = {f"part-{number}.safetensors": DATA + bytes([number]) for number in range(12)}
    server.repos["org/name"][REVISION] = parts
    first, *others = list(parts)[:4]  # as many as come at a time
    server.breaks = {first: Break(after=0, times=1000)}
    server.gates = {name: threading.Event() for name in others}
    with pytest.raises(Unavailable):
        Hub(cache, LARGE, endpoint=server.url, stall_s=0.3).fetch(MODEL)
    assert set(server.paths()) == {first, *others}
    for gate in server.gates.values():
        gate.set()


# Where the token goes


@pytest.mark.parametrize("moved", [False, True])
def test_the_token_goes_to_the_endpoint_and_not_where_it_redirects(server: FakeHub, cache: Path, moved: bool) -> None:
    with listening(FakeHub(server.repos, tokens={TOKEN})) as cdn:
        server.elsewhere, server.moved = cdn, moved
        server.gated["org/name"] = {TOKEN}
        cdn.breaks[WEIGHTS] = Break(after=300_000)
        folder = Hub(cache, LARGE, endpoint=server.url, token=SecretStr(TOKEN)).fetch(MODEL)
        assert (folder / WEIGHTS).read_bytes() == DATA
        assert all(each.headers["authorization"] == f"Bearer {TOKEN}" for each in server.requests)
        assert cdn.ranges(WEIGHTS) == [None, "bytes=300000-"]
        assert not any("authorization" in each.headers for each in cdn.requests)


def test_no_token_is_sent_when_none_is_given_whoever_is_logged_in_here(
    server: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fetch(MODEL)
    assert not any("authorization" in each.headers for each in server.requests)


def test_what_another_host_answers_says_nothing_about_the_token(server: FakeHub, cache: Path) -> None:
    with listening(FakeHub(server.repos)) as cdn:
        server.elsewhere = cdn
        cdn.failures = [403]  # a signed address that has expired
        assert names(Hub(cache, LARGE, endpoint=server.url).fetch(MODEL)) == set(files())


def test_the_environments_endpoint_counts_only_when_none_is_given(
    server: FakeHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(FakeHub()) as other:
        monkeypatch.setenv("HF_ENDPOINT", other.url)
        Hub(cache, LARGE, endpoint=server.url + "/").fetch(MODEL)
        assert other.requests == []
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        Hub(tmp_path / "second", LARGE).fetch(MODEL)
    assert server.counts()[WEIGHTS] == 2


def test_the_environments_cache_is_not_used(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    assert hub.fetch(MODEL).is_relative_to(cache)
    assert not (tmp_path / "home").exists()


def test_offline_mode_refuses_a_download_and_nothing_else(
    server: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.fetch(MODEL)
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch(MODEL) == folder
    with pytest.raises(ConfigError, match="is not in the cache, and HF_HUB_OFFLINE forbids"):
        hub.fetch(HubModel("org/name", OTHER))
    assert server.requests == []


# Room


@pytest.fixture
def small(server: FakeHub, cache: Path, said: Said) -> Hub:
    """A cache for two models, and a hub with three."""
    server.repos = {f"org/{name}": {REVISION: files(DATA[:-1] + name.encode())} for name in "abc"}
    return Hub(cache, 2 * len(DATA) + 100, endpoint=server.url, say=said)


A, B, C = (HubModel(f"org/{name}", REVISION) for name in "abc")


def used_at(cache: Path, model: HubModel, seconds: int) -> None:
    os.utime(cache / ".locks" / model.folder / f"{model.revision}.hold", (seconds, seconds))


def test_the_least_recently_used_makes_room_and_is_named(small: Hub, cache: Path, said: Said) -> None:
    kept, gone = small.fetch(A), small.fetch(B)
    used_at(cache, A, 2000)
    used_at(cache, B, 1000)
    brought = small.fetch(C)
    assert names(kept) == names(brought) == set(files())
    assert not gone.exists()
    line = f"org/c: removed org/b at {REVISION[:12]} (0.0 GiB) from the cache to make room"
    assert [each for each in said if "removed" in each] == [line]
    assert {repo.repo_id for repo in scan_cache_dir(cache).repos} == {"org/a", "org/c"}


def test_a_use_without_a_download_is_a_use_too(small: Hub, cache: Path) -> None:
    kept, gone = small.fetch(A), small.fetch(B)
    used_at(cache, A, 1000)
    used_at(cache, B, 2000)
    small.fetch(A)
    small.fetch(C)
    assert kept.exists()
    assert not gone.exists()


def test_what_is_held_stays(small: Hub, cache: Path) -> None:
    with small.hold(A):
        held, gone = small.fetch(A), small.fetch(B)
        used_at(cache, A, 1000)
        used_at(cache, B, 2000)
        small.fetch(C)
        assert names(held) == set(files())
        assert not gone.exists()


def test_there_is_no_room_while_all_is_held(small: Hub) -> None:
    with small.hold(A), small.hold(B):
        small.fetch(A)
        small.fetch(B)
        with pytest.raises(Unavailable, match=r"org/c lacks 0\.0 GiB in the cache, and all else in it is in use"):
            small.fetch(C)
    assert names(small.fetch(C)) == set(files())


def test_a_revision_that_goes_leaves_what_another_shares_with_it(server: FakeHub, small: Hub) -> None:
    shared = {"shared.safetensors": DATA}
    server.repos["org/a"] = {
        REVISION: {"model.safetensors": b"1" * 1000, **shared},
        OTHER: {"model.safetensors": b"2" * 1000, **shared},
        THIRD: {"model.safetensors": b"3" * (len(DATA) - 500), **shared},
    }
    first, second = small.fetch(A), small.fetch(HubModel("org/a", OTHER))
    third = small.fetch(HubModel("org/a", THIRD))
    assert not first.exists()
    assert not second.exists()
    assert (third / "shared.safetensors").read_bytes() == DATA
    assert server.counts()["shared.safetensors"] == 1


def test_room_made_in_the_same_repository_costs_nothing_that_has_come(server: FakeHub, cache: Path) -> None:
    server.repos["org/name"][OTHER] = {WEIGHTS: DATA[::-1]}
    other = HubModel("org/name", OTHER)
    server.breaks[WEIGHTS] = Break(after=50_000, times=ATTEMPTS)
    with pytest.raises(Unavailable):
        Hub(cache, LARGE, endpoint=server.url).fetch(other)
    gone = Hub(cache, LARGE, endpoint=server.url).fetch(MODEL)
    shutil.rmtree(cache / other.folder / "snapshots" / OTHER)  # as after a crash before the first file's end
    server.requests.clear()
    folder = Hub(cache, len(DATA) + 100, endpoint=server.url).fetch(other)
    assert (folder / WEIGHTS).read_bytes() == DATA[::-1]
    assert server.ranges(WEIGHTS) == [f"bytes={ATTEMPTS * 50_000}-"]
    assert not gone.exists()


def test_a_copy_of_a_repository_at_the_same_commit_is_another_snapshot(small: Hub, cache: Path) -> None:
    with small.hold(B):
        gone, held = small.fetch(A), small.fetch(B)
        small.fetch(C)
    assert (gone.exists(), names(held)) == (False, set(files()))


def test_what_a_broken_download_left_makes_room_first(server: FakeHub, small: Hub) -> None:
    kept = small.fetch(A)
    server.breaks[WEIGHTS] = Break(after=100_000, times=ATTEMPTS)
    with pytest.raises(Unavailable):
        small.fetch(B)
    folder = small.fetch(C)
    assert names(kept) == names(folder) == set(files())


def test_a_full_disk_is_seen_before_a_byte_comes(server: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(Unavailable, match=r"the disk of the cache has 0\.0 GiB left"):
        hub.fetch(MODEL)
    assert server.paths() == []


# Several at once


def test_one_downloads_and_the_others_wait(server: FakeHub, hub: Hub, cache: Path, said: Said) -> None:
    server.gates[WEIGHTS] = threading.Event()
    others = [Hub(cache, LARGE, endpoint=server.url, say=Said()) for _ in range(2)]  # as far as locks go, processes
    with ThreadPoolExecutor() as pool:
        first = pool.submit(hub.fetch, MODEL)
        said.wait_for("config.json is here")
        waiting = [pool.submit(other.fetch, MODEL) for other in others]
        for other in others:
            assert isinstance(other._say, Said)
            other._say.wait_for("waits until another download into the cache has ended")
        server.gates[WEIGHTS].set()
        folders = {each.result(PATIENCE_S) for each in (first, *waiting)}
    assert len(folders) == 1
    assert server.counts() == dict.fromkeys(files(), 1)
    assert len(server.requests) == 1 + len(files())  # nor did the others ask for the list


FETCH = """
import sys
from pathlib import Path
from serve.hub import Hub, HubModel

hub = Hub(Path(sys.argv[1]), 1 << 30, endpoint=sys.argv[2])
model = HubModel("org/name", "1" * 40)
print("ready", flush=True)
sys.stdin.readline()
with hub.hold(model):
    print(hub.fetch(model), flush=True)
    sys.stdin.readline()
"""


def test_processes_share_one_download_and_hold_it_until_they_die(server: FakeHub, hub: Hub, cache: Path) -> None:
    command = [sys.executable, "-c", FETCH, str(cache), server.url]
    with contextlib.ExitStack() as stack:
        racers = [
            stack.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT))
            for _ in range(2)
        ]
        pipes = [(racer.stdin, racer.stdout) for racer in racers]
        assert [out.readline() for _, out in pipes if out] == ["ready\n"] * 2
        for into, _ in pipes:
            assert into is not None
            into.write("\n")
            into.flush()
        folders = {out.readline().strip() for _, out in pipes if out}
        assert server.counts() == dict.fromkeys(files(), 1)
        assert folders == {str(hub.fetch(MODEL))}

        server.repos["org/c"] = {REVISION: files(DATA[1:])}
        tight = Hub(cache, len(DATA) + 100, endpoint=server.url)
        with pytest.raises(Unavailable, match="all else in it is in use"):
            tight.fetch(C)
        for racer in racers:
            racer.kill()
            racer.wait()
    assert names(tight.fetch(C)) == set(files())


# What is said


def test_progress_is_said_at_each_files_end(hub: Hub, said: Said) -> None:
    hub.fetch(MODEL)
    assert sorted(said) == [f"org/name: 0.0 of 0.0 GiB ({name} is here)" for name in sorted(files())]


def test_progress_is_said_every_few_seconds(
    hub: Hub, server: FakeHub, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_SAY_EVERY_S", 0.0)
    monkeypatch.setattr("serve.hub.gib", str)
    hub.fetch(MODEL)
    total = len(DATA) + 10
    lines = [line for line in said if line.endswith("GiB")]
    here = [int(line.split()[1]) for line in lines]
    assert here == sorted(here)
    assert len(here) > 3
    assert lines[-1].startswith("org/name: ")
    assert f"of {total} GiB" in lines[-1]


def test_nothing_is_drawn_in_the_log(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.fetch(MODEL)
    assert capfd.readouterr() == ("", "")
