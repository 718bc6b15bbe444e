"""For an author's tests: a tool or a stage behind the real HTTP application, in the test's own process.

    def test_adds():
        with serving(add) as client:
            assert client.call(a=1, b=2) == 3

No port is opened. Dependencies are made and closed as in a replica; `replace` gives others in their place.
"""

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal

from functions.contract import Problem, StageEvent, StageReply, StageRequest, decode_event
from functions.http.app import StageApp, create_app
from functions.lifecycle import State
from functions.problems import ProblemError
from functions.sdk.host import Host
from functions.sdk.loading import Served
from functions.settings import FunctionSettings
from transport import sse


class Client:
    """Sends requests to the application.

    Args:
        portal: to the event loop in which the application runs.
        http: sends to it.
    """

    def __init__(self, portal: BlockingPortal, http: httpx2.AsyncClient) -> None:
        self._portal = portal
        self._http = http

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Any request, and its response whatever its status."""

        async def send() -> httpx2.Response:
            given = dict(headers or {})
            if content is not None:
                return await self._http.request(method, path, content=content, headers=given)
            return await self._http.request(method, path, json=json, headers=given)

        return self._portal.call(send)

    def call(self, *, headers: Mapping[str, str] | None = None, **arguments: object) -> Any:
        """Call a tool; its result from JSON.

        Args:
            headers: of the request, such as `Idempotency-Key`.
            arguments: of the tool.

        Raises:
            ProblemError: it answered with one.
        """
        return _good(self.request("POST", "/", json=arguments, headers=headers)).json()

    def invoke(self, request: StageRequest | str, *, headers: Mapping[str, str] | None = None) -> StageReply:
        """Send a stage a request, or a text; its whole reply.

        Raises:
            ProblemError: it answered with one.
        """
        response = self._invoke(request, stream=False, headers=headers)
        return StageReply.model_validate_json(response.content)

    def events(
        self, request: StageRequest | str, *, headers: Mapping[str, str] | None = None
    ) -> list[StageEvent]:
        """Send a stage a request for a stream; all its events.

        Raises:
            ProblemError: it answered with one before the first event.
        """
        response = self._invoke(request, stream=True, headers=headers)
        parsed = sse.EventParser().feed(response.content)
        return [decode_event(event.name, event.data) for event in parsed]

    def _invoke(
        self, request: StageRequest | str, *, stream: bool, headers: Mapping[str, str] | None
    ) -> httpx2.Response:
        whole = StageRequest(input=request) if isinstance(request, str) else request
        body = whole.model_copy(update={"stream": stream}).model_dump_json(exclude_none=True).encode()
        given = {"Content-Type": "application/json", **(headers or {})}
        return _good(self.request("POST", "/invoke", content=body, headers=given))


@contextmanager
def serving(
    served: Served,
    *,
    config: Mapping[str, object] | None = None,
    replace: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    settings: FunctionSettings | None = None,
) -> Iterator[Client]:
    """A client of a tool or a stage.

    Args:
        served: what `@tool` or `@stage` made.
        config: as in the agent file.
        replace: providers of dependencies, and those that stand in for them.
        settings: of the replica, for limits and authentication.

    Raises:
        RuntimeError: the replica does not start; the message is the cause.
    """
    base = settings or FunctionSettings()
    chosen = base if config is None else dataclasses.replace(base, stage_config=config)
    host = Host(chosen, lambda: served, kind=served.kind, name=served.name, replaced=replace)
    app = create_app(host, chosen)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_running(app)) as http:
        yield Client(portal, http)


@asynccontextmanager
async def _running(app: StageApp) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.api.router.lifespan_context(app.api),
        httpx2.AsyncClient(transport=transport, base_url="http://stage.test", timeout=None) as http,
    ):
        state = await app.replica.wait_for(State.HOT)
        if state is not State.HOT:
            raise RuntimeError(app.replica.lifecycle.cause or f"the replica is {state} after its start")
        yield http


def _good(response: httpx2.Response) -> httpx2.Response:
    if response.is_success:
        return response
    raise ProblemError.of(Problem.model_validate_json(response.content))
