import pytest

from serve.api.http import (
    ClientDisconnected,
    Headers,
    Message,
    Receive,
    Reply,
    clean_request_id,
    read_body,
    send_reply,
)
from serve.errors import BodyTooLarge, UnsupportedEncoding


def body_of(*chunks: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    return replaying(messages)


def replaying(messages: list[Message]) -> Receive:
    rest = iter(messages)

    async def receive() -> Message:
        return next(rest)

    return receive


async def unread() -> Message:
    raise AssertionError("the body was read")


def test_headers_are_found_without_regard_to_case() -> None:
    headers = Headers([(b"X-Api-Key", b"a"), (b"x-api-key", b"b"), (b"host", b"h")])
    assert headers.get(b"x-api-key") == b"a"
    assert headers.count(b"x-api-key") == 2
    assert headers.get(b"accept") is None
    assert headers.count(b"accept") == 0


async def test_a_body_comes_in_chunks() -> None:
    assert await read_body(body_of(b"ab", b"", b"c"), Headers([]), 3) == b"abc"


@pytest.mark.parametrize("declared", [b"11", b"0011", b"9" * 5000])
async def test_a_body_that_declares_itself_too_large_is_not_read(declared: bytes) -> None:
    with pytest.raises(BodyTooLarge, match="larger than 10 bytes"):
        await read_body(unread, Headers([(b"content-length", declared)]), 10)


async def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_limit() -> None:
    receive = replaying([{"type": "http.request", "body": b"x" * 6, "more_body": True}] * 2)
    with pytest.raises(BodyTooLarge):
        await read_body(receive, Headers([]), 10)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"gzip, identity", b"\xff"])
async def test_a_compressed_body_is_refused_unread(encoding: bytes) -> None:
    with pytest.raises(UnsupportedEncoding):
        await read_body(unread, Headers([(b"content-encoding", encoding)]), 10)


@pytest.mark.parametrize("encoding", [b"identity", b"Identity ", b""])
async def test_identity_is_no_compression(encoding: bytes) -> None:
    assert await read_body(body_of(b"x"), Headers([(b"content-encoding", encoding)]), 10) == b"x"


async def test_a_client_may_leave_while_its_body_is_read() -> None:
    receive = replaying([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}])
    with pytest.raises(ClientDisconnected):
        await read_body(receive, Headers([]), 10)


async def test_a_reply_carries_its_length() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await send_reply(send, Reply(404, [(b"x-a", b"1")], b"body"))
    assert sent[0]["status"] == 404
    assert sent[0]["headers"] == [(b"x-a", b"1"), (b"content-length", b"4")]
    assert sent[1]["body"] == b"body"


@pytest.mark.parametrize("raw", [b"abc-1._Z", b"a" * 128])
def test_a_plain_request_id_is_kept(raw: bytes) -> None:
    assert clean_request_id(raw) == raw.decode()


@pytest.mark.parametrize("raw", [None, b"", b"a" * 129, b"a b", b"a\r\nx: y", b"\xff", b"a\n"])
def test_any_other_request_id_is_replaced(raw: bytes | None) -> None:
    made = clean_request_id(raw)
    assert made.startswith("req_")
    assert made != clean_request_id(raw)
