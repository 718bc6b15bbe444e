"""A problem as an HTTP response: status, `application/problem+json`, `Retry-After`.

On the paths of OpenAI's API the document also has the member `error`, where those clients look.
"""

import math
from collections.abc import Sequence

from starlette.types import Send

from functions.contract import Problem
from functions.problems import MEDIA_TYPE
from transport.headers import Field
from transport.openai_errors import is_openai_path, openai_error


def problem_headers(problem: Problem) -> list[Field]:
    """The response's own fields, without its length."""
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(problem.retry_after))).encode()))
    return headers


def problem_body(problem: Problem, path: str = "") -> bytes:
    """The response's body to a request for `path`."""
    if is_openai_path(path):
        problem = problem.model_copy(update={"error": error_member(problem)})
    return problem.model_dump_json(exclude_none=True).encode()


def error_member(problem: Problem) -> dict[str, str | int | bool | None]:
    """The problem as OpenAI's `error` object."""
    return openai_error(problem.status, problem.detail or problem.title, retryable=problem.retryable)


async def send_problem(send: Send, problem: Problem, *, path: str = "", extra: Sequence[Field] = ()) -> None:
    """Answer a request for `path` with a problem, and with more fields."""
    body = problem_body(problem, path)
    headers = [*problem_headers(problem), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
