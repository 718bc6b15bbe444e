"""`GET /health`, `/ping` and `/version`, which load balancers and load generators expect of a model's server.

As vLLM answers them, whatever the engine.

The replica answers them itself: they work before there is an engine, and do not wake one in standby.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from functions.replica import ReplicaTracker


def router(replica: ReplicaTracker, version_of: Callable[[], str | None]) -> APIRouter:
    """The three routes.

    Args:
        replica: whose state is asked for.
        version_of: gives the version of the engine's code; None where nothing here has one.
    """
    routes = APIRouter(tags=["health"])

    @routes.get("/ping", response_class=Response, responses={503: {"description": "Not ready"}})
    @routes.get("/health", response_class=Response, responses={503: {"description": "Not ready"}})
    async def health() -> Response:
        """200 if a request sent now would be answered, with an empty body, as vLLM does; else 503."""
        return Response(status_code=200 if replica.lifecycle.ready else 503)

    @routes.get("/version")
    async def version() -> JSONResponse:
        """Return the version of the engine's code."""
        return JSONResponse({"version": version_of()})

    return routes
