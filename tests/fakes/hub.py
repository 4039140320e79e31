"""A Hugging Face hub on loopback, as its client sees one: the list of files, and the files, with faults on request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from typing_extensions import override

PATIENCE_S = 20.0
"""How long a test waits for what must happen. Never reached when all is well."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""


@dataclass
class Break:
    """The connection ends, or is reset, after so many bytes of an answer's body, as often as `times` says."""

    after: int
    times: int = 1
    reset: bool = False


@dataclass
class FakeHub:
    """`repos[org/name][revision][path]` are the bytes of a file."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    """Those that are anybody's."""
    gated: dict[str, set[str]] = field(default_factory=dict)
    """By repository, the tokens that have access."""
    breaks: dict[str, Break] = field(default_factory=dict)
    """By file."""
    failures: list[int] = field(default_factory=list)
    """The statuses of the next answers."""
    retry_after: str | None = None
    stalls: dict[str, int] = field(default_factory=dict)
    """By file, after how many bytes the next answer stands still."""
    corrupt: set[str] = field(default_factory=set)
    """Files whose next answer has other bytes."""
    no_ranges: bool = False
    elsewhere: FakeHub | None = None
    """The other host that files are served from, as by a CDN."""
    moved: bool = False
    """The list of files is there too."""
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """By file, what an answer waits for before its first byte."""
    listing: bytes | None = None
    """What the list of files is instead."""
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def paths(self) -> list[str]:
        """The files that were asked for, in order."""
        return [unquote(each.path.split("/", 5)[5]) for each in self.requests if "/resolve/" in each.path]

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request for a file."""
        return [each.headers.get("range") for each in self.requests if each.path.endswith(f"/{path}")]

    def counts(self) -> Counter[str]:
        return Counter(self.paths())


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def digest(path: str, data: bytes) -> str:
    """The hub's ETag: weights lie in LFS, all else in Git."""
    return hashlib.sha256(data).hexdigest() if path.endswith(".safetensors") else git_digest(data)


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_digest(data)}
    if path.endswith(".safetensors"):
        sibling["lfs"] = {"size": len(data), "sha256": digest(path, data), "pointerSize": 134}
    return sibling


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    hub: FakeHub

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        request = Request(self.command, path, {name.lower(): value for name, value in self.headers.items()})
        with self.hub.lock:
            self.hub.requests.append(request)
            failure = self.hub.failures.pop(0) if self.hub.failures else None
        with contextlib.suppress(ConnectionError):
            if failure is not None:
                self._error(failure, retry_after=self.hub.retry_after)
            elif path.startswith("/api/models/"):
                self._model(path.split("/"))
            else:
                self._file(path.split("/", 5))

    do_HEAD = do_GET

    @property
    def _token(self) -> str | None:
        header: str | None = self.headers.get("Authorization")
        return header.removeprefix("Bearer ") if header is not None else None

    def _revision(self, repo_id: str, revision: str) -> dict[str, bytes] | None:
        if self._token is not None and self._token not in self.hub.tokens:
            self._error(401, message="Invalid credentials in Authorization header", body=self._token.encode())
        elif repo_id not in self.hub.repos:
            self._error(401 if self._token is None else 404, "RepoNotFound")
        elif revision not in self.hub.repos[repo_id]:
            self._error(404, "RevisionNotFound")
        else:
            return self.hub.repos[repo_id][revision]
        return None

    def _model(self, parts: list[str]) -> None:
        repo_id, revision = "/".join(parts[3:5]), parts[6]
        if (files := self._revision(repo_id, revision)) is None:
            return
        siblings = [_sibling(path, data) for path, data in files.items()]
        if self.hub.elsewhere is not None and self.hub.moved:
            return self._send(307, {"Location": f"{self.hub.elsewhere.url}{self.path}"}, b"")
        gated = "manual" if repo_id in self.hub.gated else False
        info = {"id": repo_id, "modelId": repo_id, "sha": revision, "gated": gated, "siblings": siblings}
        body = json.dumps(info).encode() if self.hub.listing is None else self.hub.listing
        self._send(200, {"Content-Type": "application/json"}, body)

    def _file(self, parts: list[str]) -> None:
        repo_id, revision, path = "/".join(parts[1:3]), parts[4], unquote(parts[5])
        if (files := self._revision(repo_id, revision)) is None:
            return
        if repo_id in self.hub.gated and self._token not in self.hub.gated[repo_id]:
            return self._error(401 if self._token is None else 403, "GatedRepo")
        if path not in files:
            return self._error(404, "EntryNotFound")
        data = files[path]
        headers = {"ETag": f'"{digest(path, data)}"', "X-Repo-Commit": revision}
        if self.hub.elsewhere is not None:
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": headers["ETag"]}
            return self._send(302, headers | linked | {"Location": f"{self.hub.elsewhere.url}{self.path}"}, b"")
        self._bytes(path, data, headers)

    def _bytes(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        start, status = 0, 200
        asked = self.headers.get("Range")
        if asked is not None and not self.hub.no_ranges:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "HEAD":  # no fault is spent on it
            return self._send(status, headers, data[start:])
        if path in self.hub.corrupt:
            self.hub.corrupt.remove(path)
            data = bytes(len(data))
        if path in self.hub.gates:
            assert self.hub.gates[path].wait(PATIENCE_S)
        body = data[start:]
        if (fault := self.hub.breaks.get(path)) is not None and fault.times:
            fault.times -= 1
            self._send(status, headers, body, part=fault.after)
            self._hang_up(fault.reset)
        elif (after := self.hub.stalls.pop(path, None)) is not None:
            self._send(status, headers, body, part=after)
            self.hub.closing.wait(PATIENCE_S)
            self._hang_up(reset=False)
        else:
            self._send(status, headers, body)

    def _error(
        self,
        status: int,
        code: str | None = None,
        *,
        message: str | None = None,
        retry_after: str | None = None,
        body: bytes = b"",
    ) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Retry-After": retry_after}
        self._send(status, {name: value for name, value in headers.items() if value is not None}, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes, part: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:part])
            self.wfile.flush()

    def _hang_up(self, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()  # a reference to the connection
            self.connection.close()
        self.close_connection = True

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client broke the connection off, or we did


@contextmanager
def listening(hub: FakeHub) -> Iterator[FakeHub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            server.shutdown()
            thread.join()
