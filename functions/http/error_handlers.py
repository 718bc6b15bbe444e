"""Exceptions of the framework's routes as responses: problems of RFC 9457."""

from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from functions.contract import Problem
from functions.engine import EngineError
from functions.http.problem_response import problem_body, problem_headers
from functions.http.request_body import ClientDisconnectedError
from functions.problems import ProblemError, field_errors, phrase, problem_of, unprocessable

CLIENT_CLOSED_REQUEST = 499
"""The status counted for a request whose client has disconnected (nginx's code)."""


class ErrorHandlers:
    """The handlers of one stage.

    Args:
        stage: its name, for problems.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def add_to(self, api: FastAPI) -> None:
        """Register them."""
        for kind in (Exception, ProblemError, EngineError, TimeoutError):
            api.add_exception_handler(kind, self.failed)
        api.add_exception_handler(ClientDisconnectedError, self.disconnected)
        api.add_exception_handler(RequestValidationError, self.invalid)
        api.add_exception_handler(HTTPException, self.not_offered)

    async def failed(self, request: Request, error: Exception) -> Response:
        """An exception of the stage, or an unexpected one."""
        return _respond(request, problem_of(error, stage=self._stage))

    async def disconnected(self, _: Request, __: Exception) -> Response:
        """The client has disconnected; the status is for the metrics alone."""
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def invalid(self, request: Request, error: Exception) -> Response:
        """A body or a parameter does not fit the route."""
        assert isinstance(error, RequestValidationError)
        problem = problem_of(unprocessable(field_errors(error.errors(), skip=1)), stage=self._stage)
        return _respond(request, problem)

    async def not_offered(self, request: Request, error: Exception) -> Response:
        """No such path or method, and what else the framework refuses."""
        assert isinstance(error, HTTPException)
        detail = error.detail
        if error.status_code == 404 and detail == phrase(404):
            detail = f"no such path: {request.url.path}"
        elif error.status_code == 405 and detail == phrase(405):
            allowed = (error.headers or {}).get("Allow", "another method")
            detail = f"{request.method} {request.url.path} is not offered; {allowed} is"
        problem = Problem(
            title=phrase(error.status_code), status=error.status_code, detail=str(detail), stage=self._stage
        )
        return _respond(request, problem, error.headers)


def _respond(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    response = Response(
        problem_body(problem, request.url.path), status_code=problem.status, headers=dict(headers or {})
    )
    response.raw_headers.extend(problem_headers(problem))
    return response
