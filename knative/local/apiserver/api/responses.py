"""Answers: JSON, a Status for an error, and the plain 404 of a path that names nothing."""

from __future__ import annotations

import json

from starlette.responses import PlainTextResponse, Response

from knative.client.resources import Object
from knative.local.apiserver.errors import ApiError


def json_response(content: Object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(json.dumps(content, separators=(",", ":")), status, media_type="application/json")


def error_response(problem: ApiError) -> Response:
    """The Status of an error, with the header fields that belong to its code."""
    response = json_response(problem.status(), problem.code)
    if problem.retry_after is not None:
        response.headers["retry-after"] = str(problem.retry_after)
    if problem.code == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def no_such_path() -> Response:
    """404 in plain text, by which clients tell a kind that is not served from a missing object (a Status)."""
    return PlainTextResponse("404 page not found\n", 404)
