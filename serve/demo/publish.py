"""Where the finished models go: made aside and moved into place, so that nobody ever finds half of one."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

# What the weights depend on, besides the sources of this folder.
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "safetensors")

_STAMP = ".demo-digest"
_LOCK = ".demo-lock"
_ASIDE = ".demo-aside-"


def digest(sources: Path) -> str:
    """Names everything that decides the weights: the files of the folder `sources` and the libraries' versions."""
    state = hashlib.sha256()
    for path in sorted(sources.iterdir()):
        if path.suffix in (".py", ".txt"):
            state.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for library in _LIBRARIES:
        state.update(f"{library} {version(library)}\n".encode())
    return state.hexdigest()


def is_current(out: Path, wanted: str, names: Sequence[str]) -> bool:
    """Whether `out` holds every one of the folders `names`, made from what `wanted` stands for."""
    stamp = out / _STAMP
    return stamp.is_file() and stamp.read_text() == wanted and all((out / name).is_dir() for name in names)


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Keeps a second maker waiting until the first one is done, and clears away what a killed one left."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for aside in out.glob(f"{_ASIDE}*"):
            shutil.rmtree(aside)
        yield


@contextmanager
def publishing(out: Path, made_from: str, names: Sequence[str]) -> Iterator[Path]:
    """Gives an empty folder to make the folders `names` in, and moves them into `out` when all of it went well."""
    with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=out) as aside:
        new, old = Path(aside, "new"), Path(aside, "old")
        new.mkdir()
        old.mkdir()
        yield new
        # Stamped last: an interruption in the middle of this is an unstamped set, and is made anew.
        (out / _STAMP).unlink(missing_ok=True)
        for name in names:
            if (out / name).exists():
                shutil.move(out / name, old / name)
            (new / name).rename(out / name)
        (out / _STAMP).write_text(made_from)
