"""Reading and changing a replica's resting warmth: `GET` and `POST /admin/warmth`, with a bearer token.

    POST /admin/warmth   {"warmth": "standby"}               202: under way
                         {"warmth": "hot", "wait": true}      200: reached; 504 if the deadline came first

Lowering a replica takes capacity away from a Service's users, so without a token the endpoint is not there.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from functions.engines.vllm.warmth_controller import WarmthController
from functions.http.app import context_of
from functions.lifecycle import State, Warmth
from functions.problems import ProblemError
from functions.replica import ReplicaTracker
from knative import env_vars

PATH = "/admin/warmth"
_STATE = {Warmth.HOT: State.HOT, Warmth.STANDBY: State.STANDBY, Warmth.ASLEEP: State.ASLEEP}


class RestingWarmthBody(BaseModel):
    """The resting warmth from now on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmth: Warmth
    wait: bool = False
    """Answer once the replica has reached it."""


class WarmthEndpoint:
    """Both routes.

    Args:
        controller: follows the orders.
        replica: whose state is reported.
        token: the bearer token that requests need; None to refuse all.
    """

    def __init__(self, controller: WarmthController, replica: ReplicaTracker, token: str | None) -> None:
        self._controller = controller
        self._replica = replica
        self._token = token

    async def read(self, authorization: Annotated[str | None, Header()] = None) -> JSONResponse:
        """Return the resting warmth and the replica's state."""
        self._check(authorization)
        return JSONResponse(self._view())

    async def order(
        self,
        request: Request,
        wanted: RestingWarmthBody,
        authorization: Annotated[str | None, Header()] = None,
    ) -> JSONResponse:
        """Set the resting warmth."""
        self._check(authorization)
        try:
            await self._controller.set_resting_warmth(wanted.warmth)
        except ValueError as error:
            raise ProblemError(422, str(error)) from None
        if not wanted.wait:
            return JSONResponse(self._view(), status_code=202)
        state = _STATE[wanted.warmth]
        try:
            async with asyncio.timeout(context_of(request).remaining()):
                reached = await self._replica.wait_for(state)
        except TimeoutError:
            raise ProblemError(
                504,
                f"warmth = {wanted.warmth}: not reached before the deadline; "
                f"the replica is {self._replica.state}",
            ) from None
        if reached is not state:
            raise ProblemError(503, f"the replica is {reached}: {self._replica.lifecycle.cause}")
        return JSONResponse(self._view())

    def _check(self, authorization: str | None) -> None:
        if self._token is None:
            raise ProblemError(
                404, f"no admin endpoint: the replica was started without {env_vars.ADMIN_TOKEN}"
            )
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token.encode()):
            raise ProblemError(401, "Authorization: must be Bearer with the replica's admin token")

    def _view(self) -> dict[str, Any]:
        lifecycle = self._replica.lifecycle
        return {"rest": self._controller.resting_warmth, "state": lifecycle.state, "warmth": lifecycle.warmth}


def router(controller: WarmthController, replica: ReplicaTracker, token: str | None) -> APIRouter:
    """Both routes; see `WarmthEndpoint`."""
    endpoint = WarmthEndpoint(controller, replica, token)
    routes = APIRouter()
    routes.add_api_route(PATH, endpoint.read, methods=["GET"], tags=["admin"])
    routes.add_api_route(PATH, endpoint.order, methods=["POST"], tags=["admin"])
    return routes
