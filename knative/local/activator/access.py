"""Which requests the gateway takes from web pages: allowed hosts and origins (pure).

A page of another site can make a browser send requests to this machine: directly, with the page's origin in
`Origin`, or under a host name of its own, in `Host` (see `transport.authority`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from transport.authority import host_name, is_address, is_local_name, is_loopback

ANY = "*"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, 9.2.1)."""


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Hosts and origins that are allowed besides those of this machine."""

    hosts: frozenset[str] = field(default_factory=frozenset)
    """Host names, without a port and in lower case, under which path URLs may be called; `*` for any."""
    origins: frozenset[str] = field(default_factory=frozenset)
    """Origins such as `https://app.example`, whose pages may write and open WebSockets; `*` for any."""

    def allows_host(self, host: bytes) -> bool:
        """Whether a request with this `Host` is for this machine; without one it comes from no browser."""
        name = host_name(host.decode("latin-1"))
        return not name or is_local_name(name) or is_address(name) or bool({name, ANY} & self.hosts)

    def allows_origin(self, origin: bytes, host: bytes) -> bool:
        """Whether a page of this origin may write to, or open a connection at, this `Host`."""
        text = origin.decode("latin-1").lower()
        if {text, ANY} & self.origins:
            return True
        try:
            parts = urlsplit(text)
            name = parts.hostname or ""
        except ValueError:  # an address in brackets that is none
            return False
        return (
            parts.netloc == host.decode("latin-1").lower() or is_local_name(name) or is_loopback(name)
        ) and parts.scheme in ("http", "https")


def origin_to_check(method: str, headers: Iterable[tuple[bytes, bytes]], *, upgrades: bool) -> bytes | None:
    """The origin of a page that asks for a write or an upgrade, now or with a CORS preflight; else None."""
    origin: bytes | None = None
    preflight = False
    for name, value in headers:
        if name == b"origin":
            origin = value
        elif name == b"access-control-request-method":
            preflight = method == "OPTIONS"
    return origin if upgrades or preflight or method not in _SAFE_METHODS else None
