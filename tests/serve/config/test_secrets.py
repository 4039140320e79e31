"""Nothing that settings or their faults can be turned into shows a secret."""

from __future__ import annotations

import hashlib
import pickle
import traceback
from pathlib import Path

import pytest

from serve.config import Settings, load_args
from serve.errors import ConfigError
from tests.serve.config.conftest import Args, Faults
from tests.serve.config.local import local

CANARY = "canary-0123456789-canary"


@pytest.fixture
def settings(root: Path) -> Settings:
    args = {
        "models": [
            {
                "name": "m",
                "provider": "local",
                "model_id": "m",
                "base_url": "http://h/v1",
                "api_key": "${SECRET}",
            }
        ],
        "auth": {"keys": "${SECRET}"},
        "cluster": {"secret": "${SECRET}"},
        "sessions": {"store": "postgresql+psycopg://u:${SECRET}@h/d"},
    }
    return load_args(args, env={"SECRET": CANARY}, root=root)


def test_no_form_of_the_settings_shows_one(settings: Settings) -> None:
    digest = settings.auth.key_digests[0]
    for form in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert CANARY not in form
        assert digest not in form


def test_who_needs_one_can_have_it(settings: Settings) -> None:
    api_key = local(settings).api_key
    assert api_key is not None
    assert api_key.get_secret_value() == CANARY
    assert settings.cluster.secret.get_secret_value() == CANARY
    assert settings.sessions.store.get_secret_value() == f"postgresql+psycopg://u:{CANARY}@h/d"


def test_settings_cross_processes(settings: Settings) -> None:
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_settings_cannot_be_changed(settings: Settings) -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.limits.body_mib = 99  # type: ignore[misc]


def test_of_client_keys_only_the_digests_are_kept(args: Args, root: Path) -> None:
    keys = [CANARY, "second-key-0123456789", "third-key-0123456789"]
    args["auth"] = {"keys": [f" {keys[0]} ,{keys[1]},, ", keys[2], ""]}
    settings = load_args(args, env={}, root=root)
    assert settings.auth.key_digests == tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys)
    assert CANARY.encode() not in pickle.dumps(settings)


def test_a_wrong_key_is_named_by_its_place(args: Args, faults: Faults) -> None:
    args["auth"] = {"keys": ["good-key-0123456789", "short", "a key with spaces in it", "k" * 513, 5]}
    assert faults(args) == (
        "auth.keys[1]: is shorter than 16 characters",
        "auth.keys[2]: must be at most 512 visible ASCII characters",
        "auth.keys[3]: must be at most 512 visible ASCII characters",
        "auth.keys[4]: should be text; quote it",
    )


def test_no_fault_shows_one_nor_does_its_traceback(root: Path) -> None:
    bad = f"{CANARY} {CANARY}"
    args = {
        "models": [{"name": "m", "provider": "local", "model_id": "m", "api_key": [bad]}],
        "auth": {"keys": ["${SECRET}"], "key": bad},
        "cluster": {"secret": "${SECRET}"},
        "sessions": {"store": "mysql://u:${SECRET}@h/d", "ttl_s": "${SECRET}"},
    }
    with pytest.raises(ConfigError) as caught:
        load_args(args, env={"SECRET": bad}, root=root)
    assert len(caught.value.faults) >= 5
    assert CANARY not in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert CANARY.encode() not in pickle.dumps(caught.value)


def test_without_a_cluster_secret_each_start_makes_one(args: Args, root: Path) -> None:
    settings = load_args(args, env={}, root=root)
    one, two = (settings.with_cluster_secret().cluster.secret.get_secret_value() for _ in range(2))
    assert one != two
    assert len(one) >= 32
    kept = load_args(args | {"cluster": {"secret": CANARY}}, env={}, root=root)
    assert kept.with_cluster_secret() is kept


def test_a_process_that_is_no_manager_gets_no_provider_s_key(settings: Settings) -> None:
    assert local(settings).api_key is not None
    assert local(settings.without_provider_keys()).api_key is None
