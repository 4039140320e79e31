"""Addresses that something listens on."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. Of names, only `localhost` counts."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_ipv6(host: str) -> bool:
    """Whether `host` is an IPv6 address and not a name or an IPv4 address, neither of which holds a colon."""
    return ":" in host


def url_of(host: str, port: int) -> str:
    """`http://host:port`, an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"http://[{host}]:{port}" if is_ipv6(host) else f"http://{host}:{port}"
