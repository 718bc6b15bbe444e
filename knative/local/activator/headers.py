"""Which header fields go through the activator, and which end at it (RFC 9110, 7.6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization",
        b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
    }
)  # fmt: skip
_NEVER_NAMED = frozenset({b"content-length", b"host"})
"""What `Connection` may not take away: without its length, a body would be read as another request."""
_ENDS_HERE = HOP_BY_HOP | {b"expect", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-prefix"}

HELD = b"x-pilotlight-held"
"""Seconds for which the activator held the request, so that a replica can tell who waited for its start."""


def named_in_connection(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The options of the `Connection` field, lower case."""
    return frozenset(
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    )


def upgrade_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The protocol that a client asks to switch to; `h2c` does not count, for HTTP/1.1 serves it as well."""
    headers = tuple(headers)
    if b"upgrade" not in named_in_connection(headers):
        return None
    wanted = next((value for name, value in headers if name == b"upgrade"), b"").strip()
    return None if not wanted or wanted.lower() == b"h2c" else wanted


def to_replica(
    headers: Iterable[tuple[bytes, bytes]], *, client: str, scheme: str, prefix: bytes
) -> list[tuple[bytes, bytes]]:
    """The request's fields as the replica gets them (names lower case, as ASGI has them)."""
    sent: list[tuple[bytes, bytes]] = []
    forwarded, proto = client.encode(), scheme.encode()
    named: frozenset[bytes] = frozenset()
    for field in headers:
        name, value = field
        if name not in _ENDS_HERE:
            sent.append(field)
        elif name == b"connection":
            if value.lower() not in (b"keep-alive", b"close", b"upgrade"):
                named |= named_in_connection((field,)) - _NEVER_NAMED
        elif name == b"x-forwarded-for":
            forwarded = value + b", " + client.encode() if client else value
        elif name == b"x-forwarded-proto":
            proto = value
    if named:
        sent = [field for field in sent if field[0] not in named]
    if forwarded:
        sent.append((b"x-forwarded-for", forwarded))
    sent.append((b"x-forwarded-proto", proto))
    if prefix:
        sent.append((b"x-forwarded-prefix", prefix))
    return sent


def to_client(headers: Sequence[tuple[bytes, bytes]], *, status: int) -> list[tuple[bytes, bytes]]:
    """The response's fields as the client gets them."""
    kept = [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
    if len(kept) != len(headers):
        named = named_in_connection(headers) - {b"close", b"keep-alive"}
        if named:
            kept = [(name, value) for name, value in kept if name.lower() not in named]
    if status in (204, 304):
        kept = [(name, value) for name, value in kept if name.lower() != b"content-length"]
    return kept
