"""The errors of a Kubernetes API as exceptions (pure).

ClusterError                    any response that is not a success
|-- NotFound                    404
|-- Conflict                    409, a newer version exists or another manager owns a field
|-- AlreadyExists               409 with reason AlreadyExists
|-- Invalid                     400 and 422, the object is wrong; `causes` name the fields
|-- Forbidden                   401 and 403
|-- Expired                     410, a resourceVersion or continue token is too old
|-- TooManyRequests             429; `retry_after` in seconds
`-- Unavailable                 5xx, or no response at all; `retry_after` if the server sent one
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TEXT_CUT = 256  # characters kept of a body that is not a Status: it may hold anything, secrets included


@dataclass(frozen=True, slots=True)
class Cause:
    """One fault of an object; `field` is its path such as `spec.template.spec`, if known."""

    message: str
    field: str | None = None
    reason: str | None = None


class ClusterError(Exception):
    """The API responded with something other than success.

    `status` is the HTTP status (None without a response), `reason` Kubernetes' machine-readable reason,
    `message` a human-readable sentence, `causes` the fields at fault.
    """

    def __init__(
        self,
        status: int | None,
        reason: str,
        message: str,
        causes: Sequence[Cause] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = tuple(causes)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})" if self.reason else self.message


class NotFound(ClusterError):  # noqa: N818  # Kubernetes' own names of these errors
    """The object, or the kind, does not exist."""


class Conflict(ClusterError):  # noqa: N818
    """The object has changed since it was read, or another field manager owns a field."""


class AlreadyExists(ClusterError):  # noqa: N818
    """An object of that name exists."""


class Invalid(ClusterError):  # noqa: N818
    """The server refuses the object's content."""


class Forbidden(ClusterError):  # noqa: N818
    """The credentials are missing, wrong or not enough."""


class Expired(ClusterError):  # noqa: N818
    """The resourceVersion or continue token is too old; list again."""


class TooManyRequests(ClusterError):  # noqa: N818
    """The server asks to slow down; `retry_after` says for how long, in seconds, if it does."""


class Unavailable(ClusterError):  # noqa: N818
    """No response, or the server failed; a retry may succeed."""


_BY_STATUS: Mapping[int, type[ClusterError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


def _seconds(value: object) -> float | None:
    """Whole seconds as a server or a proxy in front of it writes them; None for anything else."""
    return float(str(value)) if re.fullmatch(r"[0-9]{1,9}", str(value)) else None


def _text(value: object) -> str:
    """A member of a Status that should be text; empty if it is not."""
    return value if isinstance(value, str) else ""


def error_of(status: int, body: bytes, retry_after: str | None) -> ClusterError:
    """The exception for a response; `body` is normally a Kubernetes Status.

    Args:
        status: the HTTP status.
        body: the response body.
        retry_after: the header Retry-After, if there is one.
    """
    reason, message, causes = "", "", []
    delay = _seconds(retry_after)
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and answer.get("kind") == "Status":
        code = answer.get("code")
        status = code if isinstance(code, int) and code >= 400 else status
        reason, message = _text(answer.get("reason")), _text(answer.get("message"))
        details = answer.get("details")
        details = details if isinstance(details, dict) else {}
        listed = details.get("causes")
        causes = [
            Cause(
                _text(cause.get("message")),
                _text(cause.get("field")) or None,
                _text(cause.get("reason")) or None,
            )
            for cause in (listed if isinstance(listed, list) else ())
            if isinstance(cause, dict)
        ]
        delay = delay if delay is not None else _seconds(details.get("retryAfterSeconds"))
    else:
        message = f"HTTP {status}: {body[:_TEXT_CUT].decode(errors='replace')!r}"
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else ClusterError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    return kind(status, reason, message, causes, delay)
