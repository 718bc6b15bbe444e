"""Which header fields go through the activator, and which end at it (RFC 9110, 7.6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from multidict import CIMultiDict, istr

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization",
        b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
    }
)  # fmt: skip
_ENDS_HERE = HOP_BY_HOP | {b"expect", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-prefix"}

_NAMES: dict[bytes, istr] = {
    name.encode(): istr(name)
    for name in (
        "host", "user-agent", "accept", "accept-encoding", "accept-language", "content-type",
        "content-length", "authorization", "cookie", "traceparent", "tracestate", "x-request-id",
        "cache-control", "origin", "referer", "x-pilotlight-deadline", "x-forwarded-for",
        "x-forwarded-proto", "x-forwarded-prefix",
    )
}  # fmt: skip
_FORWARDED_FOR, _FORWARDED_PROTO = istr("x-forwarded-for"), istr("x-forwarded-proto")
_FORWARDED_PREFIX = istr("x-forwarded-prefix")
HELD = istr("x-pilotlight-held")
"""Seconds for which the activator held the request, so that a replica can tell who waited for its start."""


def _text(value: bytes) -> str:
    # The client writes strings as UTF-8, so what is UTF-8 passes unchanged.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def named_in_connection(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The options of the `Connection` field, lower case."""
    return frozenset(
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    )


def upgrade_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The protocol that a client asks to switch to; `h2c` does not count, for HTTP/1.1 serves it as well."""
    headers = tuple(headers)
    if b"upgrade" not in named_in_connection(headers):
        return None
    wanted = next((value for name, value in headers if name == b"upgrade"), b"").strip()
    return None if not wanted or wanted.lower() == b"h2c" else wanted.decode("latin-1")


def to_replica(
    headers: Iterable[tuple[bytes, bytes]], *, client: str, scheme: str, prefix: bytes
) -> CIMultiDict[str]:
    """The request's fields as the replica gets them (names lower case, as ASGI has them)."""
    sent: CIMultiDict[str] = CIMultiDict()
    forwarded, proto = client, scheme
    ends_here = _ENDS_HERE
    for name, value in headers:
        if name in ends_here:
            if name == b"connection" and value.lower() not in (b"keep-alive", b"close", b"upgrade"):
                ends_here = _ENDS_HERE | named_in_connection(((name, value),))
                for option in ends_here - _ENDS_HERE:
                    sent.popall(option.decode("latin-1"), None)
            elif name == b"x-forwarded-for":
                forwarded = f"{_text(value)}, {client}" if client else _text(value)
            elif name == b"x-forwarded-proto":
                proto = _text(value)
            continue
        sent.add(_NAMES.get(name) or name.decode("latin-1"), _text(value))
    if forwarded:
        sent[_FORWARDED_FOR] = forwarded
    sent[_FORWARDED_PROTO] = proto
    if prefix:
        sent[_FORWARDED_PREFIX] = prefix.decode("latin-1")
    return sent


def to_client(headers: Sequence[tuple[bytes, bytes]], *, status: int) -> list[tuple[bytes, bytes]]:
    """The response's fields as the client gets them."""
    kept = [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
    if len(kept) != len(headers):
        named = named_in_connection(headers) - {b"close", b"keep-alive"}
        if named:
            kept = [(name, value) for name, value in kept if name.lower() not in named]
    if status == 304:
        kept = [(name, value) for name, value in kept if name.lower() != b"content-length"]
    return kept
