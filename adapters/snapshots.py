"""Immutable copies of adapters: what was loaded once can be loaded again, whatever happens to its source.

The engine evicts adapters and reads them again later, so files that are edited or deleted in place would
change or break a running version (vllm-project/vllm#5105, #42125). Copies are named by what is in them:

    <root>/<model>/<name>@<digest>/adapter_config.json, adapter_model.safetensors

Several processes may share one root, on a disk whose file system has `flock`. A process holds a shared lock
on each copy it may load; `sweep` removes the copies that nobody holds, also those that a crash left behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adapters.sources import ADAPTER_FILES, CONFIG_FILE, WEIGHTS_FILE, fingerprint, open_file
from serve.errors import AdapterUnusable, Unavailable

MAX_CONFIG_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_DIGEST_CHARS = 12
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy that stays until it is released, here and in every other process that holds it."""

    digest: str
    path: Path
    hold: int
    """A descriptor of `path` with a shared lock on it."""

    def release(self) -> None:
        os.close(self.hold)


class SnapshotStore:
    """The copies under `root`. All methods block on the disk; they may be called from any thread."""

    def __init__(self, root: Path, max_weights_bytes: int) -> None:
        self._root = root
        self._max_bytes = {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: max_weights_bytes}

    def take(self, model: str, name: str, folder: Path) -> Snapshot:
        """Copy the adapter in `folder`, unless the same bytes are here already.

        Raises `AdapterUnusable` for what is wrong with the files, `Unavailable` for what may be better next
        time: the files change while they are read, or the copy cannot be written.
        """
        try:
            with self._locked():
                return self._take(model, name, folder)
        except OSError as error:
            raise Unavailable("The adapter could not be copied.", retry_after_s=_RETRY_AFTER_S) from error

    def sweep(self) -> int:
        """Remove every copy that no process holds. Returns how many those were."""
        if not self._root.exists():
            return 0
        with self._locked():
            for leftover in self._root.glob(".incoming-*"):  # nobody copies while we have the lock
                shutil.rmtree(leftover)
            return sum(_remove_if_free(path) for path in sorted(self._root.glob("*/*@*")))

    def _take(self, model: str, name: str, folder: Path) -> Snapshot:
        incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self._root))
        try:
            digest = self._copy(folder, incoming)
            path = self._root / _component(model) / f"{_component(name)}@{digest}"
            if not _holds(path, digest):
                shutil.rmtree(path, ignore_errors=True)  # damaged, or absent
                path.parent.mkdir(exist_ok=True)
                incoming.rename(path)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return Snapshot(digest, path, _hold(path))

    def _copy(self, folder: Path, incoming: Path) -> str:
        before = fingerprint(folder)
        digest = hashlib.sha256()
        for name in ADAPTER_FILES:
            self._copy_file(folder, incoming / name, digest)
        if fingerprint(folder) != before:
            raise Unavailable("The adapter's files changed while they were read.", retry_after_s=_RETRY_AFTER_S)
        return digest.hexdigest()[:_DIGEST_CHARS]

    def _copy_file(self, folder: Path, copy: Path, digest: Any) -> None:
        limit = self._max_bytes[copy.name]
        with open_file(folder, copy.name) as source, copy.open("wb") as sink:
            size = os.fstat(source.fileno()).st_size
            if size > limit:
                raise AdapterUnusable(f"Its {copy.name} has {size} bytes; at most {limit} are accepted.")
            digest.update(_frame(copy.name, size))
            left = size
            while left and (chunk := source.read(min(left, _CHUNK_BYTES))):
                digest.update(chunk)
                sink.write(chunk)
                left -= len(chunk)
            if left:
                raise Unavailable("The adapter's files shrank while they were read.", retry_after_s=_RETRY_AFTER_S)
        copy.chmod(0o444)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process, and one thread in it, changes what is under `root` at a time."""
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _frame(name: str, size: int) -> bytes:
    """What goes into the digest before a file's bytes, so that no two pairs of files read the same."""
    return name.encode() + b"\0" + size.to_bytes(8, "big")


def _holds(path: Path, digest: str) -> bool:
    """Whether a finished, undamaged copy with this digest is at `path`."""
    found = hashlib.sha256()
    try:
        for name in ADAPTER_FILES:
            with (path / name).open("rb") as file:
                found.update(_frame(name, os.fstat(file.fileno()).st_size))
                while chunk := file.read(_CHUNK_BYTES):
                    found.update(chunk)
    except OSError:
        return False
    return found.hexdigest()[:_DIGEST_CHARS] == digest


def _hold(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _remove_if_free(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(path)
        return True
    finally:
        os.close(descriptor)


def _component(name: str) -> str:
    """`name` as one component of a path: no separators, and neither `.` nor `..`."""
    return quote(name, safe="").replace(".", "%2E") if name.strip(".") == "" else quote(name, safe="")
