"""Whatever YAML can hold, the answer is settings or a `ConfigError`."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve.config import Settings, load_args, load_file
from serve.config.models import LocalModel
from serve.config.schema import AdapterConfig, BotConfig
from serve.config.shape import keys
from serve.errors import ConfigError

NOWHERE = Path("/nonexistent")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats()
    | st.text()
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes()
    | st.sampled_from(["demo", "${X}", "${Y}", "${E:-}", "$", "local", "models/demo", "http://[", "\ud800"])
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), inner, max_size=4)
        | st.sets(st.integers(), max_size=2)
    ),
    max_leaves=12,
)


def with_keys_of(section: type[Any], **sound: Any) -> st.SearchStrategy[Any]:
    """A mapping of the section's own keys, of which some hold junk."""
    likely = {key: st.just(sound[key]) | JUNK for key in sound}
    others = {key: JUNK for key in keys(section) if key not in sound}
    return st.fixed_dictionaries(likely, optional=others)


MODELS = st.lists(with_keys_of(LocalModel, name="demo", provider="local", model_id="m", engine={"max_loras": 1}))
ADAPTERS = st.lists(with_keys_of(AdapterConfig, name="support", model="demo", source="a"))
BOTS = st.dictionaries(st.text(max_size=5), with_keys_of(BotConfig, model="demo", adapters=["support"]), max_size=3)
ARGS = st.fixed_dictionaries(
    {"models": MODELS | JUNK, "adapters": ADAPTERS | JUNK, "bots": BOTS | JUNK},
    optional={key: JUNK for key in keys(Settings) if key not in ("models", "adapters", "bots")},
)
SETTINGS = load_args(
    {
        "models": [{"name": "demo", "provider": "local", "model_id": "m", "engine": {"max_loras": 1}}],
        "adapters": [{"name": "support", "model": "demo", "source": "a"}],
    },
    env={},
    root=NOWHERE,
    check_paths=False,
)


@given(ARGS | JUNK)
def test_any_arguments(args: Any) -> None:
    with contextlib.suppress(ConfigError):
        load_args(args, env={"X": "x"}, root=NOWHERE)


@given(st.fixed_dictionaries({}, optional={"bots": BOTS | JUNK, "models": JUNK, "limits": JUNK, "x": JUNK}) | JUNK)
def test_any_live_change(user_config: Any) -> None:
    with contextlib.suppress(ConfigError):
        SETTINGS.with_live(user_config, env={"X": "x"})


@given(st.dictionaries(st.sampled_from(["demo", "other"]), JUNK))
def test_any_live_change_of_models(models: Any) -> None:
    with contextlib.suppress(ConfigError):
        SETTINGS.with_live({"models": models}, env={"X": "x"})


@given(st.binary() | st.text(alphabet="{}[]:-&*!|>'\"#%@`,? \nab1").map(str.encode))
def test_any_file(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(ConfigError):
            load_file(file.name, env={})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
APPLICATION = st.fixed_dictionaries(
    {"import_path": st.just("serve.app:build")},
    optional={
        "args": JSON,
        "deployments": JSON
        | st.lists(st.fixed_dictionaries({"name": st.just("Registry") | JSON}, optional={"user_config": JSON})),
    },
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "http_options": JSON | st.fixed_dictionaries({}, optional={"host": JSON, "port": JSON}),
            "applications": JSON | st.lists(APPLICATION | JSON, max_size=2),
        },
    )
)
def test_any_structure_of_the_file(content: Any) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(content, file)  # YAML, too
        file.flush()
        with contextlib.suppress(ConfigError):
            load_file(file.name, env={})
