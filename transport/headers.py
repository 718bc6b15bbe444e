"""Which header fields a proxy passes on, and which end at each hop (RFC 9110, 7.6.1).

One rule for every proxy of the project. Fields are pairs of bytes as ASGI and `transport` have them.
"""

from __future__ import annotations

from collections.abc import Iterable

Field = tuple[bytes, bytes]
"""Name and value."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that concern one connection only, whether or not `Connection` names them (lower case)."""

NEVER_HOP_BY_HOP = frozenset({b"content-length", b"host"})
"""Fields that `Connection` cannot remove: without its length, a body would be read as another request."""

_NAMES_NO_FIELD = frozenset({b"close", b"keep-alive", b"upgrade"})
"""Values of `Connection` that most clients send, and that name no further field."""


def connection_options(headers: Iterable[Field]) -> frozenset[bytes]:
    """The options of all `Connection` fields in lower case: field names, `close`, `keep-alive`, `upgrade`."""
    return frozenset(
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    )


def end_to_end(headers: Iterable[Field], *, without: frozenset[bytes] = frozenset()) -> list[Field]:
    """The fields that a proxy passes on, in order, spelt as they came.

    Left out are hop-by-hop fields, those that `Connection` names, and `without`.

    Args:
        headers: of a request or a response.
        without: further fields that the proxy does not pass on, or sets itself (lower case).
    """
    passed: list[Field] = []
    named: frozenset[bytes] = frozenset()
    for field in headers:
        name = field[0].lower()
        if name == b"connection":
            if field[1].lower() not in _NAMES_NO_FIELD:
                named |= connection_options((field,))
        elif name not in HOP_BY_HOP and name not in without:
            passed.append(field)
    named -= NEVER_HOP_BY_HOP
    return [field for field in passed if field[0].lower() not in named] if named else passed


def requested_upgrade(headers: Iterable[Field]) -> bytes | None:
    """The protocol that a request asks to switch to, such as `websocket`; None without one (RFC 9110, 7.8).

    `h2c` counts as none: the same server answers over HTTP/1.1 as well.
    """
    headers = tuple(headers)
    if b"upgrade" not in connection_options(headers):
        return None
    wanted = next((value for name, value in headers if name.lower() == b"upgrade"), b"").strip()
    return None if not wanted or wanted.lower() == b"h2c" else wanted
