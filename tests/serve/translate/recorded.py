"""What vLLM 0.32 said to real requests, kept in fixtures/."""

import json
from pathlib import Path
from typing import Any


def recorded(name: str) -> dict[str, Any]:
    """One file of recordings, by case."""
    text = (Path(__file__).parent / "fixtures" / f"{name}.json").read_text()
    return dict(json.loads(text))
