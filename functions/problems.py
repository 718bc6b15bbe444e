"""Errors as they leave a stage: RFC 9457 `application/problem+json`, each saying whether a retry can help.

One exception carries a problem through the code, and one function makes a problem of any other exception.
Problems name the field and what would be right; they have no stack traces and cut values short, because an
input may be private.
"""

import email.utils
import json
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import JsonValue, ValidationError

from functions.contract import Problem
from functions.engine import EngineError

MEDIA_TYPE = "application/problem+json"
RETRYABLE_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses of requests that may be sent again unchanged, where no problem says so (RFC 9110, RFC 6585)."""

_VALUE_CHARS = 80


class ProblemError(Exception):
    """An error response, as an exception.

    Args:
        status: 400 to 599.
        detail: one sentence for the user: what is wrong and what would be right.
        title: short name of the kind of problem; the status's own phrase if left out.
        retryable: the same request may succeed later; by the status if left out.
        retry_after: seconds to wait before a retry.
        stage: the stage where it went wrong, if another one.
        errors: one entry per bad field.
        extra: further members of the problem object (RFC 9457 section 3.2).
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        stage: str | None = None,
        errors: Sequence[Mapping[str, JsonValue]] | None = None,
        extra: Mapping[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(
            title=title or phrase(status),
            status=status,
            detail=detail,
            retryable=status in RETRYABLE_STATUSES if retryable is None else retryable,
            retry_after=retry_after,
            stage=stage,
            errors=None if errors is None else tuple(dict(e) for e in errors),
            **dict(extra or {}),
        )

    @classmethod
    def of(cls, problem: Problem) -> "ProblemError":
        """The exception of a problem that another stage answered with."""
        error = cls(problem.status, problem.detail)
        error.problem = problem
        return error


def phrase(status: int) -> str:
    """The status's reason phrase."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def seconds_of(retry_after: str | None, *, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110 section 10.2.3): seconds, or a date.

    Args:
        retry_after: the header; None without it.
        now: seconds since the epoch.
    """
    if retry_after is None:
        return None
    try:
        digits = retry_after.strip()
        if digits.isascii() and digits.isdecimal():
            seconds = float(digits)
            return seconds if math.isfinite(seconds) else None
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - now)
    except ValueError:
        return None


def field_errors(errors: Sequence[Any], *, skip: int = 0) -> tuple[dict[str, JsonValue], ...]:
    """Pydantic's list of errors as `field`, `message` and `value`.

    Args:
        errors: as `ValidationError.errors()` has them.
        skip: so many leading parts of each path are left out.
    """
    paths = [tuple(part for part in error["loc"] if not _is_tag(part)) for error in errors]
    return tuple(
        {
            "field": _field_name(path[skip:]),
            "message": _message(error),
            "value": None if error["type"] == "missing" else _short(error.get("input")),
        }
        for error, path in zip(errors, paths, strict=True)
        # Of a list whose elements are wrong pydantic also says that it is too short without them.
        if error["type"] != "too_short" or not any(_is_below(other, path) for other in paths)
    )


def invalid(error: ValidationError) -> ProblemError:
    """422 for a body that does not fit the contract; `errors` has all bad fields."""
    return unprocessable(field_errors(error.errors(include_url=False, include_context=False)))


def unprocessable(errors: Sequence[Mapping[str, JsonValue]]) -> ProblemError:
    """422 with an entry for each bad field."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    shown = "" if first["value"] is None else f" = {first['value']!r}"
    detail = f"{first['field']}{shown}: {first['message']}{more}"
    return ProblemError(422, detail, title="Invalid request", errors=errors)


def problem_of(error: BaseException, *, stage: str) -> Problem:
    """The problem for any exception of a stage; an unexpected one is a 500 without its text."""
    if isinstance(error, ProblemError):
        problem = error.problem
    elif isinstance(error, EngineError):
        problem = Problem(
            title=phrase(error.status),
            status=error.status,
            detail=str(error),
            retryable=error.retryable,
            retry_after=error.retry_after,
        )
    elif isinstance(error, TimeoutError):
        problem = Problem(
            title="Deadline passed",
            status=504,
            detail="the deadline passed before the answer",
            retryable=True,
        )
    else:
        # The text of an unexpected exception may hold private input; it goes to the log only.
        problem = Problem(
            title="Internal Server Error",
            status=500,
            detail=f"unexpected {type(error).__name__}; the log has the details under this request id",
        )
    return problem if problem.stage else problem.model_copy(update={"stage": stage})


_TYPE_WORDS = re.compile(r"^(?:Value error, |(?:Input|String|Tuple|List|Dictionary) should )")


def _message(error: Mapping[str, Any]) -> str:
    """What would be right, in this project's words where pydantic speaks of its own types."""
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is not known here"
    message = str(error["msg"]).removesuffix(" after validation, not 0")
    prefix = _TYPE_WORDS.match(message)
    if prefix is None or prefix[0].startswith("Value"):
        return message[prefix.end() :] if prefix else message
    return f"must {message[prefix.end() :]}".replace("valid string", "text").replace("valid array", "list")


def _field_name(path: Sequence[Any]) -> str:
    """`a.b[0].c` for ("a", "b", 0, "c")."""
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name or "body"


def _is_tag(part: Any) -> bool:
    """Whether a part of a path names a member of a union, as `functions.contract.Input` tags them."""
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


def _is_below(path: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(path) > len(other) and tuple(path[: len(other)]) == tuple(other)


def _short(value: Any) -> JsonValue:
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}... ({len(text)} characters)"
