"""The hub that the embedding model comes from: the demo's files at a made-up commit, behind a token."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.hub import Break, FakeHub

REPOSITORY = "switchboard/demo-embed"
REVISION = "5eed" * 10
WEIGHTS = "model.safetensors"
BREAKS_AFTER = 200_000


def hub_of(model: Path, token: str) -> FakeHub:
    """Serves the files of `model`, and breaks off the first download of its weights."""
    files = {path.name: path.read_bytes() for path in model.glob("*") if path.is_file()}
    return FakeHub(
        repos={REPOSITORY: {REVISION: files}},
        tokens={token},
        gated={REPOSITORY: {token}},
        breaks={WEIGHTS: Break(after=BREAKS_AFTER)},
    )
