"""The `model` field of a request: `model`, `model:adapter` or `model:adapter@version`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from typing_extensions import override

from serve.errors import NotFound
from serve.quoting import quoted

_PART = r"[^\x00-\x20\x7f-\U0010ffff:@]{1,200}"  # printable ASCII but for the space and the two separators
_ADDRESS = re.compile(rf"(?P<model>{_PART})(?::(?P<adapter>{_PART})(?:@(?P<version>{_PART}))?)?")


@dataclass(frozen=True, slots=True)
class Address:
    """What a client asked for. `model` may also be a bot's name; `version` is a digest or a label."""

    model: str
    adapter: str | None = None
    version: str | None = None

    @override
    def __str__(self) -> str:
        adapter = f":{self.adapter}" if self.adapter else ""
        version = f"@{self.version}" if self.version else ""
        return f"{self.model}{adapter}{version}"


@lru_cache(maxsize=1024)
def parse(text: str) -> Address:
    """Raises `NotFound` (`model_not_found`) for what cannot be an address: nothing can have that name."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise unknown_model(text)
    return Address(**match.groupdict())


def unknown_model(name: str) -> NotFound:
    """Names what was asked for, and nothing that exists."""
    return NotFound(f"The model {quoted(name)} does not exist.", "model", "model_not_found")
