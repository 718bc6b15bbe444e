"""The function that events are posted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import aiohttp

from transport import propagation
from triggers.decisions.answers import EXCERPT, Outcome, Verdict, one_line, outcome_of_status
from triggers.decisions.cloud_events import HttpMessage
from triggers.delivery.target_auth import TargetCredential
from triggers.spec.trigger import Target

CONNECT_S: Final = 10.0
MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes of an answer that are read at most; a longer one is cut, and cannot be a reply."""
_KEEP_ALIVE_S: Final = 4.0
"""Shorter than servers keep an idle connection, so that a request does not meet one that is being closed."""
_UNDELIVERED: Final = propagation.UNDELIVERED.decode()
_UNTRIED: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientProxyConnectionError,
)
"""Errors before a byte of the request was sent."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, and the host to name there."""

    url: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request, and the answer's own words."""

    outcome: Outcome
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = True
    """False: the body is longer than `MAX_BODY`, and cut."""


def address_of(target: Target, namespace: str, gateway: str | None) -> Address:
    """Where a target is.

    Args:
        target: the Trigger's.
        namespace: of the Trigger.
        gateway: a URL that routes by `Host`; None: Services answer at their own names in the cluster.
    """
    if target.url is not None:
        return Address(target.url.rstrip("/") + ("" if target.path == "/" else target.path))
    return service_address(str(target.service), namespace, target.path, gateway)


def service_address(service: str, namespace: str, path: str, gateway: str | None) -> Address:
    """Where a Service's path is."""
    host = f"{service}.{namespace}.svc.cluster.local"
    if gateway is None:
        return Address(f"http://{host}{path}")
    return Address(gateway.rstrip("/") + path, host)


class HttpTarget:
    """Posts events. The session is the caller's."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: Address,
        timeout_s: float,
        credential: TargetCredential | None = None,
    ) -> None:
        self._credential = credential
        self._session = session
        self._address = address
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        self._headers = {
            "User-Agent": "pilotlight-trigger",
            # The queue is what tries again; retries of the servers on the way would multiply with it.
            propagation.RETRIES.decode(): "0",
            propagation.DEADLINE.decode(): f"{min(timeout_s, propagation.MAX_DEADLINE_S):g}",
        }
        if address.host is not None:
            self._headers["Host"] = address.host

    async def post(self, message: HttpMessage, headers: Mapping[str, str]) -> Answer:
        """Post once; whatever happens is an answer."""
        identity = {} if self._credential is None else self._credential.headers()
        if identity is None:
            missing = f"there is no token in {self._credential and self._credential.file}"
            return Answer(Outcome(Verdict.UNREACHABLE, "credential", missing))
        try:
            async with self._session.post(
                self._address.url,
                data=message.body,
                headers={**self._headers, **message.headers, **headers, **identity},
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                body, complete = await _read(response)
                found = {name.lower(): value for name, value in response.headers.items()}
                excerpt = body[: 4 * EXCERPT].decode("utf-8", "replace")
                outcome = outcome_of_status(
                    response.status, found, excerpt, datetime.now(UTC), undelivered=_UNDELIVERED in found
                )
                return Answer(outcome, found, body, complete)
        except _UNTRIED as error:
            return Answer(Outcome(Verdict.UNREACHABLE, "connect", _said(error)))
        except TimeoutError:
            seconds = f"no answer within {self._timeout.total:g} s"
            return Answer(Outcome(Verdict.FAILED, "timeout", seconds))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(Outcome(Verdict.FAILED, "connection", _said(error)))


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BODY:
            response.close()
            return b"".join(pieces)[:MAX_BODY], False
    return b"".join(pieces), True


def _said(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def open_session(limit: int) -> aiohttp.ClientSession:
    """A session for `limit` requests at a time; it reads neither proxies nor cookies."""
    connector = aiohttp.TCPConnector(limit=limit + 64, keepalive_timeout=_KEEP_ALIVE_S)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True
    )
