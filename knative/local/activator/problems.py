"""Responses of the activator's own: RFC 9457 problem documents that say whether a retry can help.

On the paths of OpenAI's API they also have the member `error`, where its clients look.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from knative.local.routing import StartFailure
from transport.openai_errors import is_openai_path, openai_error

RETRY_AFTER_S = 1

PROBLEM_JSON = b"application/problem+json"

Send = Callable[[dict[str, Any]], Awaitable[None]]
"""ASGI's `send`."""


@dataclass(frozen=True, slots=True)
class GatewayProblem:
    """A response that no replica gave."""

    status: HTTPStatus
    detail: str
    retryable: bool = False
    members: Mapping[str, object] = field(default_factory=dict)
    """Further members of the document."""

    def body(self, path: bytes = b"") -> bytes:
        """The JSON document for a request of this path."""
        return json.dumps(
            {
                "type": "about:blank",
                "title": self.status.phrase,
                "status": int(self.status),
                "detail": self.detail,
                "retryable": self.retryable,
                **self.members,
                **self._openai_error(path),
            }
        ).encode()

    def headers(self, length: int) -> list[tuple[bytes, bytes]]:
        """The header fields for a body of `length` bytes."""
        headers = [
            (b"content-type", PROBLEM_JSON),
            (b"content-length", str(length).encode()),
        ]
        if self.retryable and self.status != HTTPStatus.GATEWAY_TIMEOUT:
            headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        return headers

    def _openai_error(self, path: bytes) -> dict[str, object]:
        if not is_openai_path(path.decode("latin-1")):
            return {}
        return {"error": openai_error(int(self.status), self.detail, retryable=self.retryable)}

    async def send(self, send: Send, *, path: bytes = b"", more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Answer a request of this path with it, and with `more` header fields."""
        body = self.body(path)
        headers = [*self.headers(len(body)), *more]
        await send({"type": "http.response.start", "status": int(self.status), "headers": headers})
        await send({"type": "http.response.body", "body": body})


class RefusedRequestError(Exception):
    """A request that is answered with a problem before it reaches a Revision."""

    def __init__(self, problem: GatewayProblem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def start_failure(failure: StartFailure, service: str) -> GatewayProblem:
    """The response to a request for a Service whose replicas do not start: 503 with the cause."""
    what = f"Revision {failure.revision} of Service {service}" if failure.revision else f"Service {service}"
    return GatewayProblem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{what} cannot start ({failure.reason}): {failure.message}",
        retryable=failure.retryable,
        members={
            "service": service,
            "revision": failure.revision,
            "reason": failure.reason,
            "cause": failure.message,
        },
    )
