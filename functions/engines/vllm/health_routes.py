"""`GET /health`, `/ping` and `/version`, which load balancers and load generators expect of a vLLM server.

The replica answers them itself: they work before there is an engine, and do not wake one in standby.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from functions.engines.vllm.option_schema import installed_version
from functions.replica import ReplicaTracker


def router(replica: ReplicaTracker) -> APIRouter:
    """The three routes."""
    routes = APIRouter(tags=["vllm"])

    @routes.get("/ping", response_class=Response, responses={503: {"description": "Not ready"}})
    @routes.get("/health", response_class=Response, responses={503: {"description": "Not ready"}})
    async def health() -> Response:
        """200 if a request sent now would be answered, with an empty body, as vLLM does; else 503."""
        return Response(status_code=200 if replica.lifecycle.ready else 503)

    @routes.get("/version")
    async def version() -> JSONResponse:
        """Return the version of vLLM."""
        return JSONResponse({"version": installed_version()})

    return routes
