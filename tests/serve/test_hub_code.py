from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve.errors import ConfigError
from serve.hub_cache import HubModel
from serve.hub_code import check_code

MODEL = HubModel("org/name", "1" * 40)
OTHERS = "other/repo--modeling_x.X"


def snapshot(folder: Path, name: str, content: Any) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "part/config.json",
    ],
)
@pytest.mark.parametrize(
    "content",
    [
        {"auto_map": {"AutoConfig": "configuration_x.X", "AutoModel": OTHERS}},
        {"auto_map": {"AutoTokenizer": ["tokenization_x.X", OTHERS]}},
        {"auto_map": {"AutoTokenizer": [None, OTHERS]}},
        {"auto_map": OTHERS},
        {"text_config": {"auto_map": {"AutoModel": OTHERS}}},
        [{"auto_map": {"AutoModel": OTHERS}}],
        b'{"auto\\u005fmap": {"AutoModel": "other/repo-\\u002dmodeling_x.X"}}',
    ],
)
def test_code_of_another_repository_is_refused_by_its_name(tmp_path: Path, name: str, content: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_code(MODEL, snapshot(tmp_path, name, content))
    (fault,) = caught.value.faults
    assert f"org/name: its {name} runs code of another repository, 'other/repo'" in fault


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"auto_map": {"AutoModel": "modeling_x.X", "AutoTokenizer": ["tokenization_x.X", None]}},
        {"auto_map": None},
        {"task": "a--b"},
    ],
)
def test_code_of_its_own_may_run(tmp_path: Path, content: Any) -> None:
    check_code(MODEL, snapshot(tmp_path, "config.json", content))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_nobody_can_read_may_not_run_anything(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"config\.json must be JSON"):
        check_code(MODEL, snapshot(tmp_path, "config.json", content))
