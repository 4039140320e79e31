"""Where an adapter's files come from, and what may be read there.

A source is a folder on disk. `fetch` is the seam for others: a hub or a bucket would download and return the
folder. Every refusal is an `AdapterUnusable` whose message holds no path.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, TypeAlias

from serve.errors import AdapterUnusable

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
"""All that is read of an adapter, by PEFT's names."""

_PICKLES = ("adapter_model.bin", "adapter_model.pt")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Fingerprint: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""For each of `ADAPTER_FILES`: device, inode, mtime (ns) and size (bytes); None where there is no file."""


def fetch(source: str) -> Path:
    """The folder, symlinks resolved, that holds the files of `source`."""
    if "\0" in source:
        raise AdapterUnusable("Its source has a NUL character in it.")
    if _URL.match(source):
        raise AdapterUnusable("Its source is a URL; only a folder on disk can be loaded.")
    try:
        folder = Path(source).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle; ValueError: not encodable
        raise AdapterUnusable("Its folder does not exist or cannot be read.") from None
    if not folder.is_dir():
        raise AdapterUnusable("Its source is not a folder.")
    return folder


def fingerprint(folder: Path) -> Fingerprint:
    """Changes whenever the adapter's files do, at the price of two `stat` calls."""
    return tuple(_identity(folder / name) for name in ADAPTER_FILES)


def open_file(folder: Path, name: str) -> BinaryIO:
    """Open one of the adapter's files: a regular file inside `folder`, as `fetch` has returned it."""
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError):
        raise AdapterUnusable(f"Its {name} is a link that leads nowhere.") from None
    if not path.is_relative_to(folder):
        raise AdapterUnusable(f"Its {name} is a link that leaves the adapter's folder.")
    try:
        # O_NONBLOCK: a FIFO must not hang us. O_NOFOLLOW: a link that takes the file's place meanwhile fails.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _missing(folder, name) from None
    except OSError:
        raise AdapterUnusable(f"Its {name} cannot be opened.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AdapterUnusable(f"Its {name} is not a regular file.")
    return os.fdopen(descriptor, "rb")


def _missing(folder: Path, name: str) -> AdapterUnusable:
    if name == WEIGHTS_FILE and any((folder / pickle).exists() for pickle in _PICKLES):
        # Unpickling runs code, and torch's guard against that has failed before (CVE-2025-32434).
        return AdapterUnusable("Its weights are a pickle (.bin or .pt), which may run code; save them as safetensors.")
    return AdapterUnusable(f"It has no {name}.")


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
