from __future__ import annotations

from pathlib import Path

import pytest

from adapters.base_model import BaseModel
from adapters.snapshots import SnapshotStore
from tests.adapters.files import write_base


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def base(base_path: Path) -> BaseModel:
    return BaseModel.read(base_path)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "cache", max_weights_bytes=1 << 20)
