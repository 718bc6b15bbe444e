"""The activator's own answers: RFC 9457 problem documents that say whether trying again can help."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that no replica gave."""

    status: HTTPStatus
    detail: str
    retryable: bool = False
    more: Mapping[str, object] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON document."""
        return json.dumps(
            {
                "type": "about:blank",
                "title": self.status.phrase,
                "status": int(self.status),
                "detail": self.detail,
                "retryable": self.retryable,
                **self.more,
            }
        ).encode()

    def headers(self, length: int) -> list[tuple[bytes, bytes]]:
        """The header fields for a body of `length` bytes."""
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(length).encode()),
        ]
        if self.retryable and self.status != HTTPStatus.GATEWAY_TIMEOUT:
            headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        return headers
