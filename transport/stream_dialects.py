"""The streams that clients of functions ask for: how a request is recognised, how an error looks in one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from transport.openai_errors import openai_error
from transport.sse import encode_event


class Dialect(Enum):
    """Whose events a stream has."""

    STAGE = "stage"
    """`event: error` with a problem document, as between stages."""
    CHAT = "chat"
    """OpenAI's completions: data with the member `error`."""
    RESPONSES = "responses"
    """OpenAI's responses: `event: error` with `type`, `code`, `message`."""
    MESSAGES = "messages"
    """Anthropic's messages: `event: error` with `type` and `error`."""


_PATHS = {
    "/invoke": Dialect.STAGE,
    "/v1/chat/completions": Dialect.CHAT,
    "/v1/completions": Dialect.CHAT,
    "/v1/responses": Dialect.RESPONSES,
    "/v1/messages": Dialect.MESSAGES,
}


def dialect_of(method: str, path: str) -> Dialect | None:
    """The dialect of the stream that a request may ask for; None for another path or method."""
    return _PATHS.get(path) if method == "POST" else None


def asks_for_stream(body: bytes) -> bool:
    """Whether a request's JSON body asks for a stream."""
    if b'"stream"' not in body:
        return False
    try:
        value = json.loads(body)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("stream") is True


def error_event(dialect: Dialect, status: int, body: bytes) -> bytes:
    """The event by which a stream of status 200 ends with an error.

    Args:
        dialect: of the stream.
        status: that the response would have had.
        body: that it would have had: a problem document, or OpenAI's `error` object.
    """
    problem = _problem(status, body)
    message, retryable = str(problem["detail"] or problem["title"]), bool(problem["retryable"])
    value: dict[str, Any]
    match dialect:
        case Dialect.STAGE:
            return encode_event(json.dumps(problem).encode(), "error")
        case Dialect.CHAT:
            return encode_event(
                json.dumps({"error": openai_error(status, message, retryable=retryable)}).encode()
            )
        case Dialect.RESPONSES:
            error = openai_error(status, message, retryable=retryable)
            value = {
                "type": "error",
                "code": error["code"] or error["type"],
                "message": message,
                "param": None,
            }
            return encode_event(json.dumps(value).encode(), "error")
        case Dialect.MESSAGES:
            kind = openai_error(status, message, retryable=retryable)["type"]
            value = {"type": "error", "error": {"type": kind, "message": message}}
            return encode_event(json.dumps(value).encode(), "error")


def _problem(status: int, body: bytes) -> dict[str, Any]:
    """A problem document for whatever an error response says."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    given: Mapping[str, Any] = value if isinstance(value, dict) else {}
    error = given.get("error")
    detail = given.get("detail") or (error.get("message") if isinstance(error, dict) else error)
    shown = detail if isinstance(detail, str) else body[:200].decode(errors="replace")
    return {
        "type": "about:blank",
        "title": f"Status {status}",
        "retryable": status in {408, 425, 429, 502, 503, 504},
        **{key: member for key, member in given.items() if key != "error"},
        "status": status,
        "detail": shown,
    }
