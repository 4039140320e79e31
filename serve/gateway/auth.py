"""Who may call: a client key, as OpenAI's SDK (`Authorization: Bearer`) or Anthropic's (`x-api-key`) sends it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from serve.api.http import Headers
from serve.errors import NotAuthenticated

MAX_KEY_BYTES = 512
_REFUSED = "The client key is missing or not valid. Send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'."


class ClientKeys:
    """Client keys, known by their SHA-256 digests (hex) alone. Without any, every caller is let in."""

    def __init__(self, digests: Sequence[str]) -> None:
        self._digests = tuple(digest.encode("ascii") for digest in digests)

    def check(self, headers: Headers) -> None:
        """Raise `NotAuthenticated` unless the request carries exactly one known key.

        The presented key is hashed first and its digest compared with every known one in constant time, so neither
        the answer's timing nor a store's query depends on what was sent.
        """
        if not self._digests:
            return
        key = _presented(headers)
        if key is None or len(key) > MAX_KEY_BYTES:
            raise NotAuthenticated(_REFUSED)
        digest = hashlib.sha256(key).hexdigest().encode("ascii")
        # Not any(): each comparison is made, whichever matches.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise NotAuthenticated(_REFUSED)


class AdminKeys:
    """Who may see and change how it runs: admin keys alone, or everybody where there is no key of any kind."""

    def __init__(self, admin: Sequence[str], clients: Sequence[str]) -> None:
        self._keys = ClientKeys(admin)
        self._closed = bool(clients) and not admin

    def check(self, headers: Headers) -> None:
        """Raise `NotAuthenticated` unless the request carries exactly one admin key."""
        if self._closed:
            raise NotAuthenticated("This page needs an admin key, and none is configured (auth.admin_keys).")
        self._keys.check(headers)


def _presented(headers: Headers) -> bytes | None:
    """The one key the request carries; None for no key, two kinds of it, or one header sent twice."""
    if headers.count(b"authorization") + headers.count(b"x-api-key") != 1:
        return None
    direct = headers.get(b"x-api-key")
    if direct is not None:
        return direct
    scheme, _, key = (headers.get(b"authorization") or b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else None
