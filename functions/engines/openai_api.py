"""`/v1/chat/completions` and `/v1/completions` of the openai engine: the client's request, the stage's key.

What the client sends goes on as it is, but for the model's name (it may use this stage's own) and members
that the stage adds to every request. What comes back goes back as it is, token by token. The usage of a
stream is asked for also where the client did not, for the metrics; it then stays here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from functions.contract import Usage
from functions.engine import EngineError
from functions.engines.openai import OpenAIEngine
from functions.http.reverse_proxy import ProxyRequest, ProxyResponse, ReverseProxy
from functions.metrics import Metrics
from functions.problems import ProblemError
from functions.stage import DirectRoute, RequestContext
from functions.timing import Phase, TokenTimes

PATHS = ("/chat/completions", "/completions")


class Relay:
    """One path of the other side's API; a `ProxyHandler`.

    Args:
        engine: gives the engine, or raises EngineError while there is none.
        names: of the model, as clients may call it; besides its name there.
        path: below `base-url`.
        metrics: where generations are counted.
    """

    def __init__(
        self, engine: Callable[[], OpenAIEngine], names: frozenset[str], path: str, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._names = names
        self._path = path
        self._metrics = metrics

    async def __call__(
        self, request: ProxyRequest, context: RequestContext, downstream: ProxyResponse
    ) -> None:
        """See `ProxyHandler`."""
        engine = self._engine()
        asked = self._parsed(request.body, engine)
        streamed = asked.get("stream") is True
        wanted = isinstance(given := asked.get("stream_options"), dict) and bool(given.get("include_usage"))
        if streamed:
            asked["stream_options"] = {**(given if isinstance(given, dict) else {}), "include_usage": True}
        async with engine.post(self._path, context.request_id, asked) as response:
            head = [(b"content-type", response.headers.get("Content-Type", "application/json").encode())]
            if not streamed or response.content_type != "text/event-stream":
                whole = await response.read()
                self._metrics.generation(TokenTimes(context.arrived), _usage_of(whole))
                await downstream.send_whole(response.status, head, whole)
                return
            await self._stream(response, head, context, downstream, keep_usage=wanted)

    async def _stream(
        self,
        response: aiohttp.ClientResponse,
        head: list[tuple[bytes, bytes]],
        context: RequestContext,
        downstream: ProxyResponse,
        *,
        keep_usage: bool,
    ) -> None:
        instants: list[float] = []
        usage: Usage | None = None
        ended = False
        async for data in _events(response.content):
            if (found := _usage_of(data.removeprefix(b"data:"))) is not None:
                usage = found
                if not keep_usage and b'"choices":[]' in data.replace(b" ", b""):
                    continue
            if not instants:
                context.ttft = context.now() - context.arrived
                context.record(Phase.PREFILL, context.ttft)
                await downstream.start(response.status, head)
            done = data.startswith(b"data: [DONE]")
            ended |= done or b'"finish_reason":"' in data.replace(b" ", b"")
            if not done:
                instants.append(context.now())
            await downstream.send(data + b"\n\n")
        if not ended:
            raise EngineError("the engine's stream was cut off before its end", retryable=True, status=502)
        await downstream.end()
        self._metrics.generation(TokenTimes(context.arrived, tuple(instants)), usage)

    def _parsed(self, body: bytes, engine: OpenAIEngine) -> dict[str, Any]:
        try:
            asked = json.loads(body)
        except ValueError as error:
            raise ProblemError(400, f"the body is not JSON: {error}") from None
        if not isinstance(asked, dict):
            raise ProblemError(422, "the body must be a JSON object")
        there = engine.info.model
        if asked.get("model") not in {None, there, *self._names}:
            raise ProblemError(404, f"model = {asked['model']!r}, must be {there!r}", title="No such model")
        return {**engine.extra_body, **asked, "model": there}


def routes(
    engine: Callable[[], OpenAIEngine], names: frozenset[str], metrics: Metrics, stage: str
) -> tuple[DirectRoute, ...]:
    """Both paths; `stage` is the name for problems."""
    return tuple(
        DirectRoute(ReverseProxy(Relay(engine, names, path, metrics), stage), paths=frozenset({f"/v1{path}"}))
        for path in PATHS
    )


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole events as they came, without the empty line behind each; what is left at the end, too."""
    rest = b""
    while data := await content.readany():
        *events, rest = (rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if event.strip():
                yield event
    if rest.strip():
        yield rest


def _usage_of(data: bytes) -> Usage | None:
    """The usage in a response or an event; None where it has none."""
    if b'"usage"' not in data:
        return None
    try:
        usage = json.loads(data)["usage"]
        return Usage(
            prompt_tokens=usage.get("prompt_tokens"), completion_tokens=usage.get("completion_tokens")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
