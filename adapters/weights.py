"""safetensors files, read without trusting them and without loading them.

The library refuses a header that lies (lengths, offsets, shapes that overflow) without allocating for it, but
parses an honest one of up to 100 MB into some 770 MB of memory; hence a limit of our own, checked first.
Values are looked at as bit patterns, because numpy knows no bfloat16.

Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

MAX_HEADER_BYTES = 16 << 20
"""Some 100,000 tensors: a rank-8 adapter over every expert of the largest mixture models stays below."""

_LENGTH_BYTES = 8
_CHUNK_BYTES = 8 << 20


class BadHeader(ValueError):
    """The message completes "Its weights cannot be read: …"."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`start` and `end` are offsets in the file, in bytes; they have been found to fit dtype and shape."""

    dtype: str
    """safetensors' code: `F32`, `BF16`, …"""
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _FloatBits:
    unsigned: type[np.unsignedinteger]
    exponent: int
    """All of these bits set: infinite, or not a number."""
    magnitude: int
    """None of these bits set: zero."""


_FLOATS = {
    "F16": _FloatBits(np.uint16, 0x7C00, 0x7FFF),
    "BF16": _FloatBits(np.uint16, 0x7F80, 0x7FFF),
    "F32": _FloatBits(np.uint32, 0x7F80_0000, 0x7FFF_FFFF),
}
FLOAT_DTYPES = frozenset(_FLOATS)


@dataclass(frozen=True, slots=True)
class Values:
    finite: bool
    nonzero: bool
    """At least one value is not zero."""


def read_header(path: Path, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, Tensor]:
    """The tensors in a safetensors file, by name. Raises `BadHeader`."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > max_header_bytes:
            raise BadHeader(f"the header says it is {length} bytes long; at most {max_header_bytes} are accepted.")
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError:
            raise BadHeader("the file is damaged, cut short, or not safetensors.") from None
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = _LENGTH_BYTES + length
    return {name: _tensor(entry, data) for name, entry in header.items()}


def _tensor(entry: dict[str, Any], data: int) -> Tensor:
    start, end = entry["data_offsets"]
    return Tensor(entry["dtype"], tuple(entry["shape"]), data + start, data + end)


def survey(path: Path, tensor: Tensor) -> Values:
    """Look at every value of a tensor whose dtype is in `FLOAT_DTYPES`, a few MB at a time."""
    bits = _FLOATS[tensor.dtype]
    nonzero = False
    with path.open("rb") as file:
        file.seek(tensor.start)
        left = tensor.end - tensor.start
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            left -= len(chunk)
            values = np.frombuffer(chunk, bits.unsigned)
            if bool(((values & bits.exponent) == bits.exponent).any()):
                return Values(finite=False, nonzero=True)
            nonzero = nonzero or bool((values & bits.magnitude).any())
    return Values(finite=True, nonzero=nonzero)
