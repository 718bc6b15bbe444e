"""Checks on a request's head before it wakes a replica."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from knative.local.activator.access import AccessPolicy, origin_to_check
from knative.local.activator.headers import RequestLimits
from knative.local.activator.preflight import is_allowed
from knative.local.activator.problems import GatewayProblem, RefusedRequestError
from knative.local.activator.protocol import EXTENSION, ActivatorProtocol
from knative.local.activator.routes import RouteMatch, host_of
from transport.propagation import DEADLINE, RETRIES, parse_deadline, parse_retries


def check_access(
    scope: dict[str, Any],
    match: RouteMatch | None,
    policy: AccessPolicy,
    allowed_origins: frozenset[str] | None = None,
) -> None:
    """Refuse what a page of another site makes a browser send.

    Args:
        scope: ASGI's.
        match: the Service that the request is for, if there is one.
        policy: allowed hosts and origins.
        allowed_origins: those that the Service allows; None where it says nothing.

    Raises:
        RefusedRequestError: 421 for a foreign `Host`, 403 for a foreign `Origin`.
    """
    host = host_of(scope["headers"])
    if (match is None or match.prefix) and not policy.allows_host(host):
        detail = (
            f"Host = {host[:100].decode('latin-1')!r} is not a name of this machine; use its address or "
            "localhost, or allow the name (PILOTLIGHT_ALLOWED_HOSTS)"
        )
        raise RefusedRequestError(GatewayProblem(HTTPStatus.MISDIRECTED_REQUEST, detail))
    connection: ActivatorProtocol = scope["extensions"][EXTENSION]
    origin = origin_to_check(scope["method"], scope["headers"], upgrades=connection.upgrading)
    if origin is None or (allowed_origins is not None and is_allowed(origin, allowed_origins)):
        return
    if not policy.allows_origin(origin, host):
        detail = (
            f"Origin = {origin[:100].decode('latin-1')!r}: pages of this origin may not write here; "
            "allow it (PILOTLIGHT_ALLOWED_ORIGINS)"
        )
        raise RefusedRequestError(GatewayProblem(HTTPStatus.FORBIDDEN, detail))


def request_limits(headers: Iterable[tuple[bytes, bytes]]) -> RequestLimits:
    """What a client allows for its request: seconds and retries.

    Raises:
        RefusedRequestError: 400 for an invalid deadline.
    """
    deadline_s: float | None = None
    retries: int | None = None
    for name, value in headers:
        if name == DEADLINE:
            try:
                deadline_s = parse_deadline(value)
            except ValueError as error:
                detail = f"X-Pilotlight-Deadline = {value[:40].decode('latin-1')!r}, {error}"
                raise RefusedRequestError(GatewayProblem(HTTPStatus.BAD_REQUEST, detail)) from None
        elif name == RETRIES:
            retries = parse_retries(value)
    return RequestLimits(deadline_s, retries)
