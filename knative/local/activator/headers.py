"""The header fields that the activator sets on a request for its replica, and on the response for the client.

Which of the client's fields are passed on at all is `transport.headers`' rule (RFC 9110, 7.6.1).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

from transport.headers import Field, end_to_end
from transport.propagation import DEADLINE, HELD, RETRIES, RETRIES_USED
from transport.trace_context import TRACEPARENT

_SET_HERE = frozenset(
    {
        b"expect",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        DEADLINE,
        HELD,
        RETRIES,
    }
)
_SET_WITH_TRACE = _SET_HERE | {TRACEPARENT}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A value that `Forwarded` needs no quotes for (RFC 9110, 5.6.2)."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a request has left when it is passed on; None: it did not say."""

    deadline_s: float | None = None
    """Seconds for the answer."""
    retries: int | None = None
    """Retries by all servers behind together."""


def for_replica(
    headers: Iterable[Field],
    *,
    client: str,
    scheme: str,
    host: bytes,
    prefix: bytes,
    held_s: float,
    limits: RequestLimits,
    traceparent: str | None = None,
) -> list[Field]:
    """The request's fields as the replica gets them.

    Args:
        headers: the client's, with names in lower case as ASGI has them.
        client: the client's address; empty if it is unknown.
        scheme: `http`.
        host: the client's `Host`.
        prefix: the part of the path that named the Service; empty if the host did.
        held_s: seconds for which the request was held.
        limits: what the request has left.
        traceparent: that of the activator's span; None: the client's is passed on.
    """
    headers = tuple(headers)
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SET_HERE:
            given[name] = given[name] + b", " + value if name in given else value
    sent = end_to_end(headers, without=_SET_HERE if traceparent is None else _SET_WITH_TRACE)
    if traceparent is not None:
        sent.append((TRACEPARENT, traceparent.encode()))
    before = given.get(b"x-forwarded-for")
    if client:
        sent.append((b"x-forwarded-for", before + b", " + client.encode() if before else client.encode()))
    elif before:
        sent.append((b"x-forwarded-for", before))
    sent.append((b"x-forwarded-proto", given.get(b"x-forwarded-proto") or scheme.encode()))
    if prefix:
        sent.append((b"x-forwarded-prefix", prefix))
    forwarded = _forwarded(client, host, scheme)
    before = given.get(b"forwarded")
    sent.append((b"forwarded", before + b", " + forwarded if before else forwarded))
    sent.append((HELD, b"%.4f" % held_s))
    if limits.deadline_s is not None:
        sent.append((DEADLINE, b"%.3f" % limits.deadline_s))
    if limits.retries is not None:
        sent.append((RETRIES, b"%d" % limits.retries))
    return sent


@functools.lru_cache(maxsize=1024)
def _forwarded(client: str, host: bytes, scheme: str) -> bytes:
    """This hop's element of `Forwarded` (RFC 7239, 4)."""
    node = b"unknown" if not client else (f"[{client}]" if ":" in client else client).encode()
    pairs = [b"for=" + _quoted(node)]
    if host:
        pairs.append(b"host=" + _quoted(host))
    pairs.append(b"proto=" + scheme.encode())
    return b";".join(pairs)


def _quoted(value: bytes) -> bytes:
    if _TOKEN.fullmatch(value):
        return value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


_WITHOUT_LENGTH = frozenset({b"content-length"})
_WITHOUT_RETRIES = frozenset({RETRIES_USED})


def for_client(headers: Iterable[Field], *, status: int, retries_used: int) -> list[Field]:
    """The response's fields as the client gets them.

    Args:
        headers: the replica's.
        status: of the response; a 204 or 304 has no body, so it frames none.
        retries_used: by this activator and by the servers behind it, for this request.
    """
    without: frozenset[bytes] = frozenset()
    if status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        without |= _WITHOUT_LENGTH
    if retries_used:
        without |= _WITHOUT_RETRIES
    sent = end_to_end(headers, without=without)
    if retries_used:
        sent.append((RETRIES_USED, b"%d" % retries_used))
    return sent
