"""A route of the framework ends with its request, as `/invoke` does: deadline, disconnect, drain."""

import asyncio
import contextlib

from fastapi import APIRouter
from pydantic import BaseModel

from functions.http.app import create_app
from functions.http.bounded_route import BoundedRoute
from functions.settings import FunctionSettings
from functions.stage import StageRoutes
from tests.functions.servers import ScriptedStage, echo, serving, wait_until


class Body(BaseModel):
    text: str


class WithRoute(ScriptedStage):
    """A stage whose route works until it is cancelled, or answers at once."""

    def routes(self, runtime):  # noqa: ARG002 - the protocol
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()
        router = APIRouter(route_class=BoundedRoute)

        @router.post("/v1/slow")
        async def slow(body: Body):
            if body.text == "quick":
                return {"text": body.text}
            self.begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        return StageRoutes(router)


@contextlib.asynccontextmanager
async def stage(**settings):
    made = WithRoute("m", "generate", echo("m"))
    app = create_app(made, FunctionSettings(**settings))
    async with serving(app) as url:
        yield made, app, url


async def test_its_body_is_read_and_its_answer_sent(http):
    async with stage() as (_, _, url):
        async with http.post(f"{url}/v1/slow", json={"text": "quick"}) as response:
            assert (response.status, await response.json()) == (200, {"text": "quick"})
        async with http.post(f"{url}/v1/slow", json={"text": 3}) as response:
            assert response.status == 422


async def test_the_deadline_cancels_it(http):
    async with (
        stage() as (made, _, url),
        http.post(f"{url}/v1/slow", json={"text": "x"}, headers={"X-Pilotlight-Deadline": "0.3"}) as response,
    ):
        problem = await response.json(content_type=None)
        assert (response.status, problem["stage"], problem["retryable"]) == (504, "m", True)
        assert made.cancelled.is_set()


async def test_a_client_that_disconnects_cancels_it_and_is_counted(http):
    async with stage() as (made, _, url):
        request = asyncio.create_task(http.post(f"{url}/v1/slow", json={"text": "x"}))
        await asyncio.wait_for(made.begun.wait(), 10)
        request.cancel()
        await asyncio.wait_for(made.cancelled.wait(), 10)

        async def counted():
            async with http.get(f"{url}/metrics") as response:
                return 'pilotlight_requests_total{code="499"' in await response.text()

        await wait_until(counted)


async def test_a_drain_past_its_grace_period_ends_it_with_a_retryable_503(http):
    async with stage(drain_seconds=0.1) as (made, app, url):
        request = asyncio.create_task(http.post(f"{url}/v1/slow", json={"text": "x"}))
        await asyncio.wait_for(made.begun.wait(), 10)
        await app.drain()
        async with await request as response:
            problem = await response.json(content_type=None)
        assert (response.status, problem["title"], problem["retryable"]) == (503, "Replica stopped", True)
