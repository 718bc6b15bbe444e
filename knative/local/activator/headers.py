"""The header fields that the activator sets on a request for its replica, and on the response for the client.

Which of the client's fields are passed on at all is `transport.headers`' rule (RFC 9110, 7.6.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from transport.headers import Field, end_to_end

HELD = b"x-pilotlight-held"
"""Seconds for which the activator held the request, so that a replica can tell which request waited for its
cold start."""

_SET_HERE = frozenset({b"expect", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-prefix", HELD})


def for_replica(
    headers: Iterable[Field], *, client: str, scheme: str, prefix: bytes, held_s: float
) -> list[Field]:
    """The request's fields as the replica gets them.

    Args:
        headers: the client's, with names in lower case as ASGI has them.
        client: the client's address; empty if it is unknown.
        scheme: `http`.
        prefix: the part of the path that named the Service; empty if the host did.
        held_s: seconds for which the request was held.
    """
    headers = tuple(headers)
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _SET_HERE:
            given[name] = given[name] + b", " + value if name in given else value
    sent = end_to_end(headers, without=_SET_HERE)
    forwarded_for = b", ".join(filter(None, (given.get(b"x-forwarded-for"), client.encode())))
    if forwarded_for:
        sent.append((b"x-forwarded-for", forwarded_for))
    sent.append((b"x-forwarded-proto", given.get(b"x-forwarded-proto", scheme.encode())))
    if prefix:
        sent.append((b"x-forwarded-prefix", prefix))
    sent.append((HELD, b"%.4f" % held_s))
    return sent


def for_client(headers: Iterable[Field], *, status: int) -> list[Field]:
    """The response's fields as the client gets them; a 204 or 304 has no body, so it frames none."""
    no_body = status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    return end_to_end(headers, without=frozenset({b"content-length"}) if no_body else frozenset())
