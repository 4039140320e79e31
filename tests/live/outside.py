"""A server of OpenAI's dialect that is not ours, as small as one can be. What it answers the question decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override

KEPT_BACK_S = 60.0
"""How long a question that is kept back waits at most, should a test forget to release it."""


@dataclass
class OutsideServer:
    """Answers "hello" with "hello from outside". A question that says "hold" is kept back until `release` is set."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """Path, headers (names in lower case) and body of all that arrived."""
    release: threading.Event = field(default_factory=threading.Event)
    slow_s: float = 0.0
    """How long a question that says "slow" is thought about."""


@contextmanager
def outside_server() -> Iterator[OutsideServer]:
    told = OutsideServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(told))
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, name="outside server")
    thread.start()
    try:
        yield told
    finally:
        told.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(told: OutsideServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            question = str(body.get("messages", body.get("prompt")))
            if "hold" in question:
                told.release.wait(KEPT_BACK_S)
            if "slow" in question:
                threading.Event().wait(told.slow_s)
            payload = json.dumps(_completion(body["model"])).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    return Handler


def _completion(model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-outside",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello from outside", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
    }
