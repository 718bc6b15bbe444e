"""Errors as they leave a stage: RFC 9457 `application/problem+json`, each saying whether a retry can help.

One exception carries a problem through the code; one function turns anything else that may be raised into
one. Bodies name the field and what would be right; they hold no stack traces and cut values short, because
an input may be private.
"""

import email.utils
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import JsonValue, ValidationError

from functions.contract import Problem
from functions.engine import EngineError

MEDIA_TYPE = "application/problem+json"
RETRYABLE_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
"""What a client may send again unchanged, where the answer itself does not say (RFC 9110, RFC 6585)."""

_VALUE_CHARS = 80


class ProblemError(Exception):
    """A refusal with its HTTP status.

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
        """The exception of a problem that came over the wire."""
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
        if retry_after.strip().isdigit():
            return float(retry_after)
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - now)
    except ValueError:
        return None


def field_errors(errors: Sequence[Any], *, skip: int = 0) -> tuple[dict[str, JsonValue], ...]:
    """Pydantic's error list as `field`, `message`, `value`; without `skip` leading path parts."""
    return tuple(
        {
            "field": ".".join(str(part) for part in error["loc"][skip:]) or "body",
            "message": str(error["msg"]),
            "value": _short(error.get("input")),
        }
        for error in errors
    )


def invalid(error: ValidationError) -> ProblemError:
    """422 for a body that does not fit the contract; all bad fields are in `errors`."""
    return unprocessable(field_errors(error.errors(include_url=False, include_context=False)))


def unprocessable(errors: Sequence[Mapping[str, JsonValue]]) -> ProblemError:
    """422 with its fields."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    detail = f"{first['field']} = {first['value']}: {first['message']}{more}"
    return ProblemError(422, detail, title="Invalid request", errors=errors)


def problem_of(error: BaseException, *, stage: str) -> Problem:
    """The problem for anything that a stage may raise; what is unforeseen is a 500 without its text."""
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
        # The text of an unforeseen exception may hold private input; it goes to the log only.
        problem = Problem(
            title="Internal Server Error",
            status=500,
            detail=f"unforeseen {type(error).__name__}; the log has the details under this request id",
        )
    return problem if problem.stage else problem.model_copy(update={"stage": stage})


def _short(value: Any) -> JsonValue:
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}... ({len(text)} characters)"
