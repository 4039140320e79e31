"""Which addresses are this machine's own, and how they are written in a URL."""

from __future__ import annotations

import pytest

from serve.config import is_loopback, url_of


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "127.1", "localhost.example.org", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("example.org", "http://example.org:80"),
        ("::1", "http://[::1]:80"),
    ],
)
def test_an_ipv6_address_has_brackets_in_a_url(host: str, url: str) -> None:
    assert url_of(host, 80) == url
