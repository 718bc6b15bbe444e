"""The `error` object of OpenAI's API, which its clients look for in the body of an error and in streams.

A problem document (RFC 9457) may have members of its own, so one body serves both kinds of clients.
"""

from __future__ import annotations

from typing import TypeAlias

PREFIX = "/v1/"
"""Paths that OpenAI's clients call."""

Value: TypeAlias = str | int | bool | None

_KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    404: ("not_found_error", "not_found"),
    408: ("timeout_error", "timeout"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("service_unavailable_error", "service_unavailable"),
    504: ("timeout_error", "timeout"),
}


def openai_error(status: int, message: str, *, retryable: bool) -> dict[str, Value]:
    """The object.

    Args:
        status: of the response, 400 to 599; also of one that is an event in a stream of status 200.
        message: one sentence for the user.
        retryable: the same request may succeed later.
    """
    kind, code = _KINDS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    return {
        "message": message,
        "type": kind,
        "param": None,
        "code": code,
        "status": status,
        "retryable": retryable,
    }


def is_openai_path(path: str) -> bool:
    """Whether a client of OpenAI's API calls this path."""
    return path.startswith(PREFIX)
