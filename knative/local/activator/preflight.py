"""CORS (Fetch, 3.2) for Services that say which origins may call them: preflights, and answers of its own.

A preflight is answered here and reaches no replica: it neither wakes a Service nor keeps it awake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus

from knative.local.activator.problems import GatewayProblem, Send

Field = tuple[bytes, bytes]

_ANY = "*"
_MAX_AGE_S = 600
_METHODS = b"GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"


def origin_of_preflight(method: str, headers: Iterable[Field]) -> bytes | None:
    """The origin that asks whether it may call; None for a request that is no preflight."""
    if method != "OPTIONS":
        return None
    fields = dict(headers)
    return fields.get(b"origin") if b"access-control-request-method" in fields else None


def is_allowed(origin: bytes, allowed: frozenset[str]) -> bool:
    """Whether pages of this origin may call."""
    return bool({_ANY, origin.decode("latin-1").lower()} & allowed)


def response_fields(headers: Iterable[Field], allowed: frozenset[str] | None) -> list[Field]:
    """The fields by which a page of an allowed origin may read an answer of the activator's own."""
    origin = next((value for name, value in headers if name == b"origin"), None)
    if origin is None or allowed is None or not is_allowed(origin, allowed):
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"Retry-After"),
        (b"vary", b"Origin"),
    ]


async def answer_preflight(
    send: Send, origin: bytes, headers: Sequence[Field], allowed: frozenset[str]
) -> None:
    """Answer a preflight: 204 with what is allowed, or 403."""
    if not is_allowed(origin, allowed):
        names = ", ".join(sorted(allowed)) or "none"
        shown = origin[:100].decode("latin-1")
        detail = f"Origin = {shown!r}, must be one of those that the Service allows ({names})"
        await GatewayProblem(HTTPStatus.FORBIDDEN, detail).send(send)
        return
    wanted = next((value for name, value in headers if name == b"access-control-request-headers"), b"")
    fields = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", b"%d" % _MAX_AGE_S),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
        *([(b"access-control-allow-headers", wanted)] if wanted else []),
    ]
    await send({"type": "http.response.start", "status": int(HTTPStatus.NO_CONTENT), "headers": fields})
    await send({"type": "http.response.body", "body": b""})
