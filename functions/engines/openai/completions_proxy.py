"""`/v1/chat/completions` and `/v1/completions` of the engine `openai`, passed through with the stage's key.

A client's request is passed on as it is, except for the model's name (clients may use the stage's own) and
the members that the stage adds to every request. The response is passed back event by event. Token counts of
a stream are always requested, for the metrics; a client that did not request them does not get them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from functions.contract import Usage
from functions.engines import openai_dialect as dialect
from functions.engines.openai.client import OpenAIEngine, cut_off, malformed
from functions.engines.openai_refusals import Beginning, refused
from functions.http.reverse_proxy import ProxyRequest, ProxyResponse, ReverseProxy
from functions.metrics import Metrics
from functions.problems import ProblemError
from functions.stage import DirectRoute, RequestContext
from functions.timing import Phase, TokenTimes
from transport.sse import ServerSentEvent

PATHS = ("/chat/completions", "/completions")
"""Below `base-url`, and below `/v1` of the stage."""


class CompletionsProxy:
    """One of the paths; a `ProxyHandler`.

    Args:
        engine: returns the engine, or raises EngineError while there is none.
        names: names by which clients may call the model, besides its name at `base-url`.
        path: one of `PATHS`.
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
        body = self._parse(request.body, engine)
        streamed = body.get("stream") is True
        options = body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if streamed:
            body["stream_options"] = {**options, "include_usage": True}
        with context.span("engine", "client"):
            async with engine.post(self._path, context.request_id, body) as response:
                head = [(b"content-type", response.headers.get("Content-Type", "application/json").encode())]
                if not streamed or response.content_type != "text/event-stream":
                    whole = await response.read()
                    context.usage = _Event(whole).usage
                    self._metrics.generation(
                        TokenTimes(context.arrived), context.usage, refused=refused(whole)
                    )
                    await downstream.send_whole(response.status, head, whole)
                    return
                await self._stream(
                    response, head, context, downstream, send_usage=bool(options.get("include_usage"))
                )

    async def _stream(
        self,
        response: aiohttp.ClientResponse,
        head: list[tuple[bytes, bytes]],
        context: RequestContext,
        downstream: ProxyResponse,
        *,
        send_usage: bool,
    ) -> None:
        instants: list[float] = []
        beginning = Beginning()
        usage: Usage | None = None
        ended = False
        async for received in self._events(response):
            event = _Event(received.data.encode())
            usage = context.usage = event.usage or usage
            if event.is_usage_only and not send_usage:
                continue
            if not downstream.started:
                context.ttft = context.now() - context.arrived
                context.record(Phase.PREFILL, context.ttft)
                await downstream.start(response.status, head)
            if received.data.strip() == dialect.END_OF_STREAM:
                ended = True
            elif received.data:
                ended |= event.is_last
                instants.append(context.now())
            beginning.add(received.raw)
            await downstream.send(received.raw)
        if not ended:
            raise cut_off()
        await downstream.end()
        times = TokenTimes(context.arrived, tuple(instants))
        self._metrics.generation(times, usage, refused=beginning.refused)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[ServerSentEvent]:
        """The events, and comments that keep the connection open."""
        try:
            async for event in dialect.stream_events(response.content.iter_any(), with_comments=True):
                yield event
        except dialect.DialectError as error:
            raise malformed(error) from None

    def _parse(self, raw: bytes, engine: OpenAIEngine) -> dict[str, Any]:
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise ProblemError(400, f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise ProblemError(422, "the body must be a JSON object")
        model = engine.info.model
        if body.get("model") not in {None, model, *self._names}:
            raise ProblemError(404, f"model = {body['model']!r}, must be {model!r}", title="No such model")
        return {**engine.extra_body, **body, "model": model}


class _Event:
    """What the proxy needs to know of a response or of one event; anything else than an object is empty."""

    def __init__(self, data: bytes) -> None:
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        self._value: dict[str, Any] = value if isinstance(value, dict) else {}

    @property
    def usage(self) -> Usage | None:
        return dialect.usage_of(self._value.get("usage"))

    @property
    def is_usage_only(self) -> bool:
        return self.usage is not None and self._value.get("choices") == []

    @property
    def is_last(self) -> bool:
        choices = self._value.get("choices")
        return isinstance(choices, list) and any(
            isinstance(choice, dict) and choice.get("finish_reason") for choice in choices
        )


def routes(
    engine: Callable[[], OpenAIEngine], names: frozenset[str], metrics: Metrics, stage: str
) -> tuple[DirectRoute, ...]:
    """Both paths.

    Args:
        engine: see `CompletionsProxy`.
        names: see `CompletionsProxy`.
        metrics: see `CompletionsProxy`.
        stage: the stage's name, for problems.
    """
    return tuple(
        DirectRoute(
            ReverseProxy(CompletionsProxy(engine, names, path, metrics), stage),
            paths=frozenset({f"/v1{path}"}),
        )
        for path in PATHS
    )
