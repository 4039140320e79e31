from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from typing_extensions import override

from bench import hosted, peers
from bench.figures import SWITCHBOARD
from bench.hosted import Gateway, in_a_line
from bench.hosted_figures import LITELLM, PORTKEY
from bench.servers import Server, StartFailed, config
from serve.config import load_file


class Started(Server):
    """A server that needs no process."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    @override
    def wait_until(self, path: str, say: Callable[[str], None], patience_s: float = 0) -> None:
        if self._fault:
            raise StartFailed(self._fault)


def gateways(monkeypatch: pytest.MonkeyPatch, *, install: str = "", start: str = "", failing: str) -> list[str]:
    """Gateways of which one does not come up. Returns the names of those that were stopped, as they are stopped."""
    stopped: list[str] = []

    def of(name: str) -> Callable[[int, Path, Path], AbstractContextManager[Server]]:
        @contextmanager
        def running(upstream: int, logs: Path, folder: Path) -> Iterator[Server]:
            if install and name == failing:
                raise StartFailed(install)
            try:
                yield Started(start if name == failing else "")
            finally:
                stopped.append(name)

        return running

    made = {name: Gateway(of(name), "/") for name in (SWITCHBOARD, LITELLM, PORTKEY)}
    monkeypatch.setattr(hosted, "GATEWAYS", made)
    monkeypatch.setattr(hosted, "hear_signals", lambda: None)
    return stopped


def test_a_peer_that_cannot_be_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gateways(monkeypatch, install="no npm", failing=PORTKEY)
    with ExitStack() as stack:
        servers, left_out = hosted.started(list(hosted.GATEWAYS), 1, tmp_path, stack)
    assert list(servers) == [SWITCHBOARD, LITELLM]
    assert left_out == {PORTKEY: "no npm"}


def test_a_peer_that_does_not_start_is_stopped_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stopped = gateways(monkeypatch, start="LiteLLM did not start; its log:\nfirst\n\nno port", failing=LITELLM)
    with ExitStack() as stack:
        servers, left_out = hosted.started(list(hosted.GATEWAYS), 1, tmp_path, stack)
        assert stopped == [LITELLM]
    assert list(servers) == [SWITCHBOARD, PORTKEY]
    assert left_out == {LITELLM: "LiteLLM did not start; its log: no port"}
    assert stopped == [LITELLM, PORTKEY, SWITCHBOARD]


def test_without_switchboard_there_is_no_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stopped = gateways(monkeypatch, start="no port", failing=SWITCHBOARD)
    with pytest.raises(StartFailed, match="no port"), ExitStack() as stack:
        hosted.started(list(hosted.GATEWAYS), 1, tmp_path, stack)
    assert sorted(stopped) == sorted(hosted.GATEWAYS)


@pytest.mark.parametrize(("text", "line"), [("one", "one"), ("one\n two \n\nthree\n", "one three")])
def test_a_reason_fits_in_a_line(text: str, line: str) -> None:
    assert in_a_line(text) == line


def test_options_are_read() -> None:
    plan, names = hosted.arguments(["--clients", "8", "--rounds", "2", "--requests", "50", "--peers", "portkey"])
    assert (plan.clients, plan.rounds, plan.requests) == ((8,), 2, 50)
    assert names == [PORTKEY]
    assert hosted.arguments([])[1] == [SWITCHBOARD, LITELLM, PORTKEY]


def test_an_unknown_peer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hosted.arguments(["--peers", "litellm,nothing"])
    assert "nothing is none of switchboard" in capsys.readouterr().err


def test_switchboard_is_told_where_the_upstream_is(tmp_path: Path) -> None:
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config(peers.hosted_model(8001), 8123, tmp_path / "state.db")))
    settings, _ = load_file(path, check_paths=False)
    (model,) = settings.models
    assert (model.name, model.provider) == ("gpt", "openai")
    assert getattr(model, "base_url") == "http://127.0.0.1:8001/v1"  # noqa: B009


def test_every_gateway_is_told_of_the_same_upstream() -> None:
    (entry,) = peers.litellm_config(8001)["model_list"]
    assert entry["litellm_params"]["api_base"] == "http://127.0.0.1:8001/v1"
    assert peers.portkey_headers(8001)["x-portkey-custom-host"] == "http://127.0.0.1:8001/v1"


def test_what_was_installed_is_not_installed_again(tmp_path: Path) -> None:
    home, log = tmp_path / "peer", tmp_path / "log"
    once = ["mkdir", str(home / "once")]
    assert peers.installed("Peer", "1.0", home, [once], log) == home
    assert peers.installed("Peer", "1.0", home, [["false"]], log) == home
    with pytest.raises(StartFailed, match="Peer could not be installed"):
        peers.installed("Peer", "2.0", home, [["false"]], log)
    with pytest.raises(StartFailed, match="no-such-program"):
        peers.installed("Peer", "2.0", home, [["no-such-program"]], log)


def test_only_gateways_that_took_part_have_a_version() -> None:
    assert list(peers.versions([SWITCHBOARD, PORTKEY])) == [PORTKEY]
