"""The replica's door for orders: `GET` and `POST /admin/warmth`, with a bearer token.

    POST /admin/warmth   {"warmth": "standby"}               202: under way
                         {"warmth": "hot", "wait": true}      200: there; 504 if the deadline came first

Whoever may order a replica down can take a service from its users, so without a token there is no door.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from functions.engines.vllm.ladder import Ladder
from functions.http.app import context_of
from functions.lifecycle import State, Warmth
from functions.problems import ProblemError
from functions.replica import Replica
from knative import env_vars

PATH = "/admin/warmth"
_STATE = {Warmth.HOT: State.HOT, Warmth.STANDBY: State.STANDBY, Warmth.ASLEEP: State.ASLEEP}


class WarmthOrder(BaseModel):
    """Where to rest from now on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmth: Warmth
    wait: bool = False
    """Answer once the replica is there."""


class Admin:
    """The door.

    Args:
        ladder: takes the orders.
        replica: tells where it is.
        token: who has it may order; None for nobody.
    """

    def __init__(self, ladder: Ladder, replica: Replica, token: str | None) -> None:
        self._ladder = ladder
        self._replica = replica
        self._token = token

    async def read(self, authorization: Annotated[str | None, Header()] = None) -> JSONResponse:
        """Tell the rung to rest on and the state the replica is in."""
        self._check(authorization)
        return JSONResponse(self._view())

    async def order(
        self, request: Request, wanted: WarmthOrder, authorization: Annotated[str | None, Header()] = None
    ) -> JSONResponse:
        """Rest on this rung from now on."""
        self._check(authorization)
        try:
            await self._ladder.order(wanted.warmth)
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
        return {"rest": self._ladder.rest, "state": lifecycle.state, "warmth": lifecycle.warmth}


def router(ladder: Ladder, replica: Replica, token: str | None) -> APIRouter:
    """Both routes."""
    admin = Admin(ladder, replica, token)
    made = APIRouter()
    made.add_api_route(PATH, admin.read, methods=["GET"], tags=["admin"])
    made.add_api_route(PATH, admin.order, methods=["POST"], tags=["admin"])
    return made
