"""A problem as an HTTP response: status, `application/problem+json`, `Retry-After`."""

import math
from collections.abc import Sequence

from starlette.types import Send

from functions.contract import Problem
from functions.problems import MEDIA_TYPE
from transport.headers import Field


def problem_headers(problem: Problem) -> list[Field]:
    """The response's own fields, without its length."""
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after))).encode()))
    return headers


def problem_body(problem: Problem) -> bytes:
    """The response's body."""
    return problem.model_dump_json(exclude_none=True).encode()


async def send_problem(send: Send, problem: Problem, *, extra: Sequence[Field] = ()) -> None:
    """Answer with a problem, and with more fields."""
    body = problem_body(problem)
    headers = [*problem_headers(problem), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
