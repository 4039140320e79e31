"""Models from a Hugging Face hub: a pinned revision of a repository, in a bounded cache on disk.

Asking is `huggingface_hub`'s: the list of files, the errors, the HTTP client, the cache's layout. The bytes are read
here, over plain HTTP, because its own download (2.4, `_download_to_tmp_and_move`) throws away what it has when it
fails, reads its timeout from the environment, and sends the token along when a redirect leads from `endpoint` to
huggingface.co. Nothing of HF_HOME, HF_TOKEN or a login is read; HF_ENDPOINT is when no endpoint is given, and
HF_HUB_OFFLINE makes a download a refusal that says so.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

import stamina
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP client's, no dependency of ours
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from pydantic import SecretStr

from serve.errors import ConfigError, Unavailable
from serve.hub_cache import RETRY_AFTER_S, HubCache, HubFile, HubModel, gib, unique_bytes
from serve.hub_code import check_code

__all__ = ["Hub", "HubModel"]

logger = logging.getLogger(__name__)

ATTEMPTS = 6
"""How often each request is made before the hub counts as not there."""
_STREAMS = 4
"""Files of one repository that come at a time."""
_SAY_EVERY_S = 5.0
_MAX_WAIT_S = 60.0
_MAX_TEXT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_PUBLIC_HUB = "https://huggingface.co"

_SUFFIXES = frozenset({".json", ".jinja", ".model", ".safetensors", ".tiktoken", ".txt"})
_TEXTS = ("COPYING", "LICENCE", "LICENSE", "NOTICE", "USE_POLICY")


class _Broken(Exception):
    """What may go better next time. Holds nothing of the vendor's text: it is logged."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _Stopped(Exception):
    """Another file of the repository has failed for good."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Hub:
    """`endpoint` is the hub's address, HF_ENDPOINT's or huggingface.co when None; `token` goes nowhere else.

    `max_bytes` bounds all snapshots in `cache_dir` together. A read in which nothing comes for `stall_s` seconds
    has failed. `say` is told what a person who waits wants to know, from any thread.
    """

    def __init__(
        self,
        cache_dir: Path,
        max_bytes: int,
        *,
        endpoint: str | None = None,
        token: SecretStr | None = None,
        stall_s: float = 60.0,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        self._endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or _PUBLIC_HUB).rstrip("/")
        self._token = token.get_secret_value() if token is not None else ""
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._say = say
        self._cache = HubCache(cache_dir, max_bytes, say)

    def hold(self, model: HubModel) -> AbstractContextManager[None]:
        """Keep the snapshot, also one that is yet to be fetched, until the block ends.

        Held by whoever serves from it, around `fetch`: between the two another process might make room.
        """
        return self._cache.hold(model)

    def path(self, model: HubModel) -> Path:
        """Where the snapshot is, or would be."""
        return self._cache.snapshot(model)

    def fetch(self, model: HubModel, *, allow_code: bool = False) -> Path:
        """The folder of the snapshot. Without a request when all of it is on disk; else blocks until it is.

        Raises `ConfigError` for what a person must mend, and `Unavailable` for what may go better next time; what
        came until then stays, and the next call goes on from there. `allow_code` brings *.py as well,
        and refuses a repository that would have another one's run.
        """
        try:
            with self._cache.hold(model):
                if not self._is_here(model, allow_code):
                    with self._cache.writing(model):
                        if not self._is_here(model, allow_code):  # who had the lock may have brought it
                            self._bring(model, allow_code)
                snapshot = self._cache.snapshot(model)
                if allow_code:
                    check_code(model, snapshot)
                return snapshot
        except _Broken as error:
            message = f"{model.repo_id} could not be brought from the hub: {error}."
            raise Unavailable(message, retry_after_s=RETRY_AFTER_S) from None
        except OSError as error:
            message = f"{model.repo_id} could not be written to the cache."
            raise Unavailable(message, retry_after_s=RETRY_AFTER_S) from error

    def _is_here(self, model: HubModel, allow_code: bool) -> bool:
        listing = self._cache.listing(model)
        return listing is not None and all(self._cache.has(model, file) for file in wanted(listing, allow_code))

    def _bring(self, model: HubModel, allow_code: bool) -> None:
        info = self._ask(model)
        listing = _listing(info.siblings or [])
        files = wanted(listing, allow_code)
        if not any(file.path.endswith(".safetensors") for file in files):
            raise model.refused("has no weights in safetensors, the only format that is read")
        if (size := unique_bytes(files)) > self._max_bytes:
            raise model.refused(f"has {gib(size)} GiB, and the cache takes at most {gib(self._max_bytes)}")
        if info.gated:  # its list of files is open to all; nothing must go for what may not be had
            self._try(model, min(files, key=lambda file: file.size))
        self._cache.begin(model, listing)
        self._cache.link_present(model, files)
        self._cache.make_room(model, files)
        missing = {file.digest: file for file in files if not self._cache.has(model, file)}
        self._download(model, missing.values(), _Progress(self._say, model.repo_id, size, files, missing))
        self._cache.link_present(model, files)  # equal files come once

    def _ask(self, model: HubModel) -> ModelInfo:
        # token=False: not the token of whoever is logged in on this machine
        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        for attempt in _attempts():
            with attempt, self._translated(model):
                try:
                    return api.model_info(
                        model.repo_id, revision=model.revision, files_metadata=True, timeout=self._stall_s
                    )
                except (AttributeError, KeyError, TypeError, ValueError):
                    raise _Broken("its answer was not a hub's") from None
        raise AssertionError("unreachable")

    def _try(self, model: HubModel, file: HubFile) -> None:
        for attempt in _attempts():
            with attempt, self._opened(model, file, 0):
                pass

    def _download(self, model: HubModel, files: Iterable[HubFile], progress: _Progress) -> None:
        stop = threading.Event()

        def stop_the_others(each: Future[None]) -> None:
            if each.exception() is not None:
                stop.set()

        with ThreadPoolExecutor(_STREAMS, thread_name_prefix="hub") as pool:
            running = [pool.submit(self._download_file, model, file, progress, stop) for file in files]
            for each in running:
                each.add_done_callback(stop_the_others)
        for error in (each.exception() for each in running):
            if error is not None and not isinstance(error, _Stopped):
                raise error

    def _download_file(self, model: HubModel, file: HubFile, progress: _Progress, stop: threading.Event) -> None:
        for attempt in _attempts():
            with attempt:
                if stop.is_set():
                    raise _Stopped
                with self._cache.partial(model, file).open("a+b") as sink:
                    self._read(model, file, sink, progress, stop)
        self._cache.keep(model, file)
        progress.finish(file)

    def _read(self, model: HubModel, file: HubFile, sink: BinaryIO, progress: _Progress, stop: threading.Event) -> None:
        """Go on where `sink` ends, and compare all of it with the digest."""
        found = _hash_of(file, sink)
        if (start := sink.tell()) < file.size:
            with self._opened(model, file, start) as (status, chunks):
                if start and status != 206:
                    sink.truncate(0)
                    found = _hash_of(file, sink)
                for chunk in chunks:
                    sink.write(chunk)
                    found.update(chunk)
                    progress.reach(file, sink.tell())
                    if stop.is_set():
                        raise _Stopped
                    if sink.tell() > file.size:
                        break
        sink.flush()
        if sink.tell() < file.size:
            raise _Broken("it ended a file too soon")
        if found.hexdigest() != file.digest:
            sink.truncate(0)
            raise _Broken("the bytes of a file were not those that it lists")
        os.fsync(sink.fileno())

    @contextmanager
    def _opened(self, model: HubModel, file: HubFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The status and the bytes of a file from `start` on. The client follows redirects, without the token."""
        url = hf_hub_url(model.repo_id, file.path, revision=model.revision, endpoint=self._endpoint)
        headers = {"Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            self._translated(model),
            get_session().stream("GET", url, headers=headers, timeout=self._stall_s, follow_redirects=True) as response,
        ):
            if response.status_code >= 400:
                raise HfHubHTTPError("", response=response)
            yield response.status_code, response.iter_bytes()

    @contextmanager
    def _translated(self, model: HubModel) -> Iterator[None]:
        """The vendor's errors as ours; without their text, which may hold addresses and what the server says."""
        try:
            yield
        except OfflineModeIsEnabled:
            raise model.refused("is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub") from None
        except HfHubHTTPError as error:
            headers = error.response.headers
            status = error.response.status_code
            at_hub = urlsplit(str(error.response.url)).netloc == urlsplit(self._endpoint).netloc
            if not at_hub or status in (408, 416, 429) or status >= 500:
                wait = headers.get("Retry-After", "")
                wait_s = min(float(wait), _MAX_WAIT_S) if wait.isdecimal() else None
                raise _Broken(f"it answered with status {status}", wait_s) from None
            raise self._refusal(model, status, headers.get("X-Error-Code", "")) from None
        except HTTPError as error:
            raise _Broken(f"the connection failed ({type(error).__name__})") from None

    def _refusal(self, model: HubModel, status: int, code: str) -> ConfigError:
        """By https://github.com/huggingface/huggingface_hub, `hf_raise_for_status`."""
        if code == "GatedRepo":
            mine = "the token's owner has none" if self._token else "no token was given"
            return model.refused(
                f"is gated, and {mine}: ask for access at the hub, and give the token of somebody who has it"
            )
        if code == "RevisionNotFound":
            return model.refused(f"the hub has no revision {model.revision} of it")
        if code == "RepoNotFound":
            why = "the token's owner may not see it" if self._token else "no token was given"
            return model.refused(f"the hub has no such repository; or it is private, and {why}")
        if status == 401:
            why = "does not accept the token" if self._token else "wants a token, and none was given"
            return model.refused(f"the hub {why}")
        return model.refused(f"the hub refuses it with status {status}")


def wanted(listing: Iterable[HubFile], allow_code: bool) -> list[HubFile]:
    """What an engine reads of a repository: configuration, tokenizer, weights in safetensors, licences."""
    files = [file for file in listing if _is_wanted(file, allow_code)]
    weights = [PurePosixPath(file.path).name for file in files if file.path.endswith(".safetensors")]
    if all(name.startswith("consolidated") for name in weights):
        return files
    # Mistral's repositories hold the same weights twice, once in its own layout.
    return [file for file in files if not PurePosixPath(file.path).match("consolidated*.safetensors")]


def _is_wanted(file: HubFile, allow_code: bool) -> bool:
    path = PurePosixPath(file.path)
    if path.parts[0] == "original":  # the same weights as their maker stores them; vLLM leaves them out too
        return False
    if path.suffix == ".py":
        return allow_code
    if path.suffix in _SUFFIXES or path.name.startswith("tokenizer.model."):
        return True
    return path.name.upper().startswith(_TEXTS) and path.suffix in ("", ".md") and file.size <= _MAX_TEXT_BYTES


def _listing(siblings: Iterable[RepoSibling]) -> list[HubFile]:
    """Raises `_Broken` for a list without sizes, or with a path that leads out of the repository."""
    try:
        return [HubFile(each.rfilename, -1 if each.size is None else each.size, _digest(each)) for each in siblings]
    except ValueError:
        raise _Broken("its list of files was not a hub's") from None


def _digest(sibling: RepoSibling) -> str:
    return sibling.lfs.sha256 if sibling.lfs else sibling.blob_id or ""


def _attempts() -> Iterator[stamina.Attempt]:
    """Of one request: waits grow from half a second to half a minute, with jitter."""
    return iter(
        stamina.retry_context(
            on=_wait, attempts=ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=30.0, wait_jitter=1.0
        )
    )


def _wait(error: Exception) -> bool | float:
    """Whether to make the request again, or after how many seconds."""
    if not isinstance(error, _Broken):
        return False
    return True if error.wait_s is None else error.wait_s


def _hash_of(file: HubFile, sink: BinaryIO) -> _Hash:
    """Of what is in `sink`, ready for what follows; `sink` is then at its end."""
    if len(file.digest) == 64:
        found: _Hash = hashlib.sha256()
    else:
        found = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)  # as Git names a file
    sink.seek(0)
    while chunk := sink.read(_CHUNK_BYTES):
        found.update(chunk)
    return found


class _Progress:
    """Says how much of a repository is here: at each file's end, and every few seconds."""

    def __init__(
        self, say: Callable[[str], None], name: str, total: int, files: Iterable[HubFile], missing: Iterable[str]
    ) -> None:
        self._say = say
        self._name = name
        self._total = total
        self._here = {file.digest: file.size for file in files} | dict.fromkeys(missing, 0)
        self._lock = threading.Lock()
        self._said = time.monotonic()

    def reach(self, file: HubFile, size: int) -> None:
        """`size` bytes of `file` are here."""
        with self._lock:
            self._here[file.digest] = size
            if time.monotonic() - self._said >= _SAY_EVERY_S:
                self._tell("")

    def finish(self, file: HubFile) -> None:
        with self._lock:
            self._here[file.digest] = file.size
            self._tell(f" ({file.path} is here)")

    def _tell(self, event: str) -> None:
        self._said = time.monotonic()
        self._say(f"{self._name}: {gib(sum(self._here.values()))} of {gib(self._total)} GiB{event}")
