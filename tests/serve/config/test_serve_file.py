"""`load_file`: the whole of `serve_config.yaml`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.config import HttpBinding, is_loopback, load_file
from serve.errors import ConfigError
from tests.serve.config.conftest import Args

REPOSITORY = Path(__file__).parents[3]
LOOPBACK = {"host": "127.0.0.1", "port": 8000}


@pytest.fixture
def file(args: Args) -> Args:
    return {
        "http_options": LOOPBACK,
        "applications": [
            {"name": "other", "import_path": "other:app"},
            {
                "name": "switchboard",
                "import_path": "serve.app:build",
                "args": args,
                "deployments": [
                    {"name": "Router", "num_replicas": 3},
                    {"name": "Registry", "user_config": {"limits": {"max_in_flight": 9}}},
                ],
            },
        ],
    }


@pytest.fixture
def faults(root: Path) -> Callable[[Any], tuple[str, ...]]:
    def load(file: Any) -> tuple[str, ...]:
        path = root / "serve_config.yaml"
        path.write_text(file if isinstance(file, str) else yaml.safe_dump(file))
        with pytest.raises(ConfigError) as caught:
            load_file(path, env={}, root=root)
        assert caught.value.source == "serve_config.yaml"
        return caught.value.faults

    return load


def test_it_gives_the_settings_in_force_and_the_address(root: Path, file: Args) -> None:
    path = root / "serve_config.yaml"
    path.write_text(yaml.safe_dump(file))
    settings, binding = load_file(path, env={}, root=root)
    assert binding == HttpBinding("127.0.0.1", 8000)
    assert [model.name for model in settings.models] == ["demo", "other"]
    assert settings.limits.max_in_flight == 9


def test_the_repository_s_own_file_is_valid() -> None:
    settings, binding = load_file(REPOSITORY / "serve_config.yaml", env={}, root=REPOSITORY, check_paths=False)
    assert is_loopback(binding.host)
    assert {"support", "sales"} == set(settings.bots)


def test_its_replicas_fit_a_machine_with_two_cores_twice() -> None:
    settings, _ = load_file(REPOSITORY / "serve_config.yaml", env={}, root=REPOSITORY, check_paths=False)
    managers = sum(2 * manager.resources.num_cpus for manager in settings.managers().values())
    assert managers + settings.router.replicas * settings.router.num_cpus + settings.registry.num_cpus <= 2


def test_all_faults_of_the_file_are_reported_at_once(file: Args, faults: Callable[[Any], tuple[str, ...]]) -> None:
    application = file["applications"][1]
    application["args"]["models"][1]["engine"] = {"max_lora": 2}
    application["deployments"][1]["user_config"] = {
        "bots": {"bot": {"model": "other"}, "lost": {"model": "zzz"}},
        "models": {"other": {"limits": {"max_in_flight": 5}}, "zzz": {}},
    }
    file["http_options"] = {"host": "0.0.0.0", "port": 0}
    user_config = "applications[1].deployments[1].user_config"
    assert faults(file) == (
        f"{user_config}.bots.lost.model: there is no model 'zzz'",
        f"{user_config}.models.zzz: there is no such model",
        "http_options.host: '0.0.0.0' is open to others and auth.keys is empty: anybody could call",
        "http_options.port: should be a whole number from 1 to 65535",
        "models[1].engine.max_lora: unknown key; did you mean 'max_loras'?",
    )


@pytest.mark.parametrize("options", [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "example.org"}, {}, None])
def test_without_client_keys_only_loopback_will_do(
    file: Args, faults: Callable[[Any], tuple[str, ...]], options: Args | None
) -> None:
    (fault,) = faults(file | {"http_options": options})
    assert fault.startswith("http_options.host: ")


def test_with_client_keys_any_address_will_do(root: Path, file: Args) -> None:
    file["applications"][1]["args"]["auth"] = {"keys": "${KEYS}"}
    path = root / "serve_config.yaml"
    path.write_text(yaml.safe_dump(file | {"http_options": {"host": "0.0.0.0", "port": 80}}))
    _, binding = load_file(path, env={"KEYS": "0123456789abcdef"}, root=root)
    assert binding == HttpBinding("0.0.0.0", 80)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("192.0.2.7", "http://192.0.2.7:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
        ("2001:db8::7", "http://[2001:db8::7]:8000"),
    ],
)
def test_this_machine_reaches_it_at_the_address_that_it_listens_on(host: str, url: str) -> None:
    assert HttpBinding(host, 8000).url == url


@pytest.mark.parametrize(("key", "value"), [("host", "${HOST:-127.0.0.1}"), ("port", "${PORT}")])
def test_serves_own_options_take_no_reference(
    file: Args, faults: Callable[[Any], tuple[str, ...]], key: str, value: str
) -> None:
    assert faults(file | {"http_options": LOOPBACK | {key: value}}) == (
        f"http_options.{key}: takes no ${{NAME}}: only args and a user_config do",
    )


def test_the_last_of_two_registries_counts_and_its_faults_have_its_path(
    file: Args, faults: Callable[[Any], tuple[str, ...]]
) -> None:
    file["applications"][1]["deployments"].append(
        {"name": "Registry", "user_config": {"bots": {"b": {"model": "zzz"}}}}
    )
    assert faults(file) == ("applications[1].deployments[2].user_config.bots.b.model: there is no model 'zzz'",)


@pytest.mark.parametrize("applications", [None, [], {}, [5], [{"import_path": "other:app"}]])
def test_a_file_without_our_application(applications: Any, faults: Callable[[Any], tuple[str, ...]]) -> None:
    assert faults({"applications": applications, "http_options": LOOPBACK}) == (
        "applications: exactly one application must have the import_path serve.app:build; there is none",
    )


def test_a_file_with_two_of_it(file: Args, faults: Callable[[Any], tuple[str, ...]]) -> None:
    file["applications"].append(file["applications"][1])
    (fault,) = faults(file)
    assert fault.endswith("there is more than one")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "a: [1",
            "line 1, column 6: while parsing a flow sequence expected ',' or ']', but got '<stream end>'",
        ),
        ("a: 1\n b: 2", "line 2, column 3: mapping values are not allowed here"),
        ("a: !!python/object:os.system x", "line 1, column 4: could not determine a constructor for the tag"),
        ("a: 2026-02-31", "line 1, column 4: not a value of its type"),
        ("a: !!int x", "line 1, column 4: not a value of its type"),
        ("? {a: 1}\n: b", "line 1, column 3: while constructing a mapping found unhashable key"),
        ("a: *b", "line 1, column 4: found undefined alias 'b'"),
        (
            "a: 1\n---\nb: 2",
            "line 2, column 1: expected a single document in the stream but found another document",
        ),
        ("a: \x01", "holds a character that YAML does not allow, at position 3"),
        ("[" * 2000, "is nested too deeply"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line(
    text: str, fault: str, faults: Callable[[Any], tuple[str, ...]]
) -> None:
    (found,) = faults(text)
    assert found.startswith(fault)


def test_a_key_given_twice_is_refused(faults: Callable[[Any], tuple[str, ...]]) -> None:
    assert faults("bots:\n  support: {}\n  sales: {}\n  support: {}\n  sales: {}\n") == (
        "line 4: the key 'support' is there twice",
        "line 5: the key 'sales' is there twice",
    )


def test_a_merged_key_may_be_overridden(faults: Callable[[Any], tuple[str, ...]]) -> None:
    (fault,) = faults("base: &base {a: 1}\nother: {<<: *base, a: 2}\nhttp_options: {host: localhost}")[:1]
    assert fault.startswith("applications: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_file(tmp_path / "none.yaml")
    assert caught.value.faults == ("cannot be read: No such file or directory",)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError) as caught:
        load_file(path)
    assert caught.value.faults == ("line 2: is not UTF-8 text",)
