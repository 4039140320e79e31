from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from adapters.weights import BadHeader, Tensor, read_header, survey

ROOT = Path(__file__).parents[2]
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def encoded(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_header_tells_names_types_shapes_and_places(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": np.zeros((2, 3), np.float16), "b": np.ones(1, np.float32)}, path, {"format": "pt"})
    tensors = read_header(path)
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        "a": ("F16", (2, 3)),
        "b": ("F32", (1,)),
    }
    with path.open("rb") as file:
        file.seek(tensors["b"].start)
        assert file.read() == np.ones(1, np.float32).tobytes() + bytes(12)[: path.stat().st_size - tensors["b"].end]


LIES = {
    "empty": b"",
    "too short": b"\0" * 7,
    "header longer than the file": struct.pack("<Q", 15 << 20) + b"{}",
    "not JSON": struct.pack("<Q", 4) + b"oops",
    "deeply nested": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a list": encoded([]),
    "data missing": encoded({"a": ENTRY}, bytes(4)),
    "data left over": encoded({"a": ENTRY}, bytes(40)),
    "gigabytes in eight bytes": encoded({"a": ENTRY | {"shape": [10**9], "data_offsets": [0, 4 * 10**9]}}, bytes(8)),
    "shape that overflows": encoded({"a": ENTRY | {"shape": [2**62, 2**62]}}, bytes(8)),
    "shape that does not fit": encoded({"a": ENTRY | {"shape": [3]}}, bytes(8)),
    "overlapping": encoded({"a": ENTRY, "b": ENTRY}, bytes(8)),
    "unknown type": encoded({"a": ENTRY | {"dtype": "X32"}}, bytes(8)),
    "negative offset": encoded({"a": ENTRY | {"data_offsets": [-8, 0]}}, bytes(8)),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_a_header_that_lies_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(BadHeader):
        read_header(tmp_path / "w")


MEASURE = """
import sys
from pathlib import Path
from adapters.weights import BadHeader, read_header

def peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before = peak_kib()
for path in sys.argv[1:]:
    try:
        read_header(Path(path))
    except BadHeader:
        continue
    sys.exit(f"{path} was accepted")
print(peak_kib() - before)
"""


def test_refusing_costs_no_memory(tmp_path: Path) -> None:
    lies = LIES | {
        "2^63 bytes of header": struct.pack("<Q", 2**63) + b"{}",
        "an honest header of 60 MB": encoded({"__metadata__": {"a": "x" * (60 << 20)}}),
    }
    for index, data in enumerate(lies.values()):
        (tmp_path / str(index)).write_bytes(data)
    command = [sys.executable, "-c", MEASURE, *map(str, tmp_path.iterdir())]
    measured = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert int(measured.stdout) < 4096  # KiB, for all of them together


@given(data=st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    for candidate in (data, struct.pack("<Q", len(data)) + data):
        path.write_bytes(candidate)
        try:
            assert isinstance(read_header(path), dict)
        except BadHeader:
            continue


@given(
    dtype=st.sampled_from(["F16", "F32"]),
    values=st.lists(st.floats(width=16, allow_nan=True, allow_infinity=True), min_size=1, max_size=40),
)
@settings(max_examples=200)
def test_values_are_judged_as_numpy_does(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, values: list[float]
) -> None:
    array = np.array(values, np.float16 if dtype == "F16" else np.float32)
    path = tmp_path_factory.getbasetemp() / "values"
    path.write_bytes(b"123" + array.tobytes())  # at an odd place
    found = survey(path, Tensor(dtype, array.shape, 3, 3 + array.nbytes))
    assert found.finite == bool(np.isfinite(array).all())
    assert found.nonzero == bool(array.any())


@pytest.mark.parametrize(
    ("value", "finite", "nonzero"),
    [
        (0.0, True, False),
        (-0.0, True, False),
        (1e-30, True, True),
        (np.inf, False, True),
        (np.nan, False, True),
    ],
)
def test_bfloat16_which_numpy_does_not_know(tmp_path: Path, value: float, finite: bool, nonzero: bool) -> None:
    bits = np.array([0.0, value], np.float32).view(np.uint32) >> 16
    (tmp_path / "w").write_bytes(bits.astype(np.uint16).tobytes())
    found = survey(tmp_path / "w", Tensor("BF16", (2,), 0, 4))
    assert (found.finite, found.nonzero) == (finite, nonzero)
