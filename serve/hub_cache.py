"""The shared, bounded cache of hub snapshots on disk, in the layout of `huggingface_hub`.

    <root>/models--<org>--<name>/blobs/<digest>, <digest>.incomplete
    <root>/models--<org>--<name>/snapshots/<revision>/<path> -> ../../blobs/<digest>
    <root>/models--<org>--<name>/switchboard/<revision>.json        the hub's list of files
    <root>/.locks/switchboard.lock                                  held by the one process that downloads
    <root>/.locks/models--<org>--<name>/<revision>.hold             held, shared, by all who use a snapshot

So that `scan_cache_dir`, `hf cache ls` and its like read it. The disk's file system has `flock`; only Switchboard
writes here. Locks end with the process that has them, however that ends.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, HFCacheInfo, scan_cache_dir
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from serve.errors import ConfigError, Unavailable

RETRY_AFTER_S = 30.0
_INCOMPLETE = ".incomplete"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository at the hub, at one commit. Raises `ConfigError` for what can be neither."""

    repo_id: str
    """`org/name`"""
    revision: str
    """40 hex digits: a branch or a tag may mean other files tomorrow."""

    def __post_init__(self) -> None:
        try:
            named = "/" in self.repo_id and bool(self.folder)
        except HFValidationError:
            named = False
        if not named:
            raise self.refused("is not the name of a repository, org/name")
        if not _COMMIT.fullmatch(self.revision):
            raise self.refused(f"the revision {self.revision[:80]!r} is not a commit of 40 hex digits")

    def refused(self, why: str) -> ConfigError:
        return ConfigError("the hub", (f"models: {self.repo_id}: {why}",))

    @property
    def folder(self) -> str:
        return repo_folder_name(repo_id=self.repo_id, repo_type="model")


@dataclass(frozen=True, slots=True)
class HubFile:
    """Raises `ValueError` for a path or a digest that could lead out of the cache."""

    path: str
    size: int
    """Bytes."""
    digest: str
    """SHA-256 of a file in LFS, Git's SHA-1 of any other: what the hub calls its ETag."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in self.path:
            raise ValueError("not a path within a repository")
        if self.size < 0 or not _DIGEST.fullmatch(self.digest):
            raise ValueError("no size or no digest")


def gib(size: int) -> str:
    """`size` bytes as a number of GiB."""
    return f"{size / (1 << 30):.1f}"


def unique_bytes(files: Iterable[HubFile]) -> int:
    """What `files` take on disk, where equal files are one blob."""
    return sum({file.digest: file.size for file in files}.values())


class HubCache:
    """All methods block on the disk. Those that write want `writing` around them."""

    def __init__(self, root: Path, max_bytes: int, say: Callable[[str], None]) -> None:
        self._root = root.absolute()
        self._max_bytes = max_bytes
        self._say = say

    @contextmanager
    def hold(self, model: HubModel) -> Iterator[None]:
        """Nobody removes the snapshot, whether it is there already or not, until the block ends."""
        path = self._hold_file(model.folder, model.revision)
        with _opened(path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(path)
            try:
                yield
            finally:
                os.utime(path)  # its mtime is the snapshot's last use

    @contextmanager
    def writing(self, model: HubModel) -> Iterator[None]:
        """One process, and one thread in it, changes what is in the cache at a time; others wait."""
        with _opened(self._root / ".locks" / "switchboard.lock") as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say(f"{model.repo_id}: waits until another download into the cache has ended")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def snapshot(self, model: HubModel) -> Path:
        return self._root / model.folder / "snapshots" / model.revision

    def has(self, model: HubModel, file: HubFile) -> bool:
        """Whether it is in the snapshot, whole. Its bytes were compared with the digest when they came."""
        try:
            return (self.snapshot(model) / file.path).stat().st_size == file.size
        except OSError:
            return False

    def listing(self, model: HubModel) -> tuple[HubFile, ...] | None:
        """What the hub said is in the repository at this commit; None when it was never asked."""
        try:
            return tuple(HubFile(**entry) for entry in json.loads(self._listing_file(model).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def begin(self, model: HubModel, listing: Iterable[HubFile]) -> None:
        """Keep the list of files, and link those whose bytes are here already, from another revision."""
        path = self._listing_file(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.snapshot(model).mkdir(parents=True, exist_ok=True)
        (self._root / model.folder / "blobs").mkdir(exist_ok=True)
        incoming = path.with_suffix(_INCOMPLETE)
        incoming.write_text(json.dumps([dataclasses.asdict(file) for file in listing]))
        incoming.replace(path)

    def link_present(self, model: HubModel, files: Iterable[HubFile]) -> None:
        """Put those into the snapshot whose bytes came with another revision."""
        for file in files:
            blob = self._blob(model, file)
            if blob.is_file() and blob.stat().st_size == file.size:
                self._link(model, file)

    def partial(self, model: HubModel, file: HubFile) -> Path:
        """Where its bytes gather. Whoever comes later goes on from there."""
        blob = self._blob(model, file)
        return blob.with_name(blob.name + _INCOMPLETE)

    def keep(self, model: HubModel, file: HubFile) -> None:
        """The partial file is whole: make it the blob, and put it into the snapshot."""
        self.partial(model, file).replace(self._blob(model, file))
        self._link(model, file)

    def make_room(self, model: HubModel, files: Iterable[HubFile]) -> None:
        """Remove what was used least recently, until `files` fit beside the rest.

        What a broken download left goes first. Raises `Unavailable` when all that could go is in use, or the
        disk itself is full.
        """
        needed = {file.digest: file.size for file in files}
        tried: set[Path] = set()
        while (over := self._beside(model, needed) + sum(needed.values()) - self._max_bytes) > 0:
            if self._remove_leftovers(model, needed):
                continue
            info = scan_cache_dir(self._root)
            victims = [found for found in self._snapshots(info) if found[1].snapshot_path not in tried]
            victims = [found for found in victims if found[1].snapshot_path != self.snapshot(model)]
            if not victims:
                raise Unavailable(
                    f"{model.repo_id} lacks {gib(over)} GiB in the cache, and all else in it is in use.",
                    retry_after_s=RETRY_AFTER_S,
                )
            repo, revision = min(victims, key=self._last_use)
            tried.add(revision.snapshot_path)
            if self._remove(info, repo, revision):
                self._say(
                    f"{model.repo_id}: removed {repo.repo_id} at {revision.commit_hash[:12]} "
                    f"({gib(revision.size_on_disk)} GiB) from the cache to make room"
                )
        self._check_disk(model, needed)

    def _check_disk(self, model: HubModel, needed: dict[str, int]) -> None:
        blobs = self._root / model.folder / "blobs"
        here = sum(path.stat().st_size for path in _files(blobs) if _digest(path) in needed)
        missing = sum(needed.values()) - here
        free = shutil.disk_usage(self._root).free
        if missing > free:
            raise Unavailable(
                f"{model.repo_id} needs {gib(missing)} GiB, and the disk of the cache has {gib(free)} GiB left.",
                retry_after_s=RETRY_AFTER_S,
            )

    def _beside(self, model: HubModel, needed: dict[str, int]) -> int:
        """The bytes of all blobs, whole or not, but those that are `needed`."""
        return sum(
            path.stat().st_size
            for folder in self._root.glob("models--*/blobs")
            for path in _files(folder)
            if not (folder.parent.name == model.folder and _digest(path) in needed)
        )

    def _remove_leftovers(self, model: HubModel, needed: dict[str, int]) -> bool:
        """Blobs that no snapshot refers to, and partial files: nobody else downloads while we do."""
        leftovers = []
        for folder in self._root.glob("models--*/blobs"):
            # Not by scan_cache_dir: it skips a repository with a broken link, and all of it would look left over.
            links = (path for path in folder.parent.glob("snapshots/*/**/*") if path.is_symlink())
            used = {Path(os.readlink(link)).name for link in links}
            mine = needed if folder.parent.name == model.folder else {}
            leftovers += [path for path in _files(folder) if path.name not in used and _digest(path) not in mine]
        for path in leftovers:
            path.unlink()
        return bool(leftovers)

    def _remove(self, info: HFCacheInfo, repo: CachedRepoInfo, revision: CachedRevisionInfo) -> bool:
        """Whether nobody held it, so that it is gone."""
        with _opened(self._hold_file(repo.repo_path.name, revision.commit_hash)) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # delete_revisions looks in all repositories for the commit, and copies of a repository share theirs.
            only = dataclasses.replace(info, repos=frozenset({repo}))
            only.delete_revisions(revision.commit_hash).execute()
            return not revision.snapshot_path.exists()

    def _last_use(self, found: tuple[CachedRepoInfo, CachedRevisionInfo]) -> float:
        repo, revision = found
        try:
            return self._hold_file(repo.repo_path.name, revision.commit_hash).stat().st_mtime
        except FileNotFoundError:
            return revision.last_modified

    def _link(self, model: HubModel, file: HubFile) -> None:
        link = self.snapshot(model) / file.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(self._blob(model, file), link.parent))

    @staticmethod
    def _snapshots(info: HFCacheInfo) -> list[tuple[CachedRepoInfo, CachedRevisionInfo]]:
        return [(repo, revision) for repo in info.repos if repo.repo_type == "model" for revision in repo.revisions]

    def _blob(self, model: HubModel, file: HubFile) -> Path:
        return self._root / model.folder / "blobs" / file.digest

    def _listing_file(self, model: HubModel) -> Path:
        return self._root / model.folder / "switchboard" / f"{model.revision}.json"

    def _hold_file(self, folder: str, revision: str) -> Path:
        return self._root / ".locks" / folder / f"{revision}.hold"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file()]


def _digest(blob: Path) -> str:
    return blob.name.removesuffix(_INCOMPLETE)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor to lock, for this block alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
