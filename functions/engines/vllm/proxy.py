"""vLLM's own paths at the function URL, passed through to its server token by token.

`functions.http.reverse_proxy` has what is common to all proxies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from functions.auth.authenticator import CREDENTIALS
from functions.contract import Usage
from functions.engines.openai_refusals import Beginning, refused
from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.usage import UsageFilter, ask_for_usage, usage_in
from functions.engines.vllm.warmth_controller import WarmthController
from functions.http.reverse_proxy import ProxyRequest, ProxyResponse, ReverseProxy, tokens_in
from functions.metrics import Metrics
from functions.stage import DirectRoute, RequestContext
from functions.timing import Phase, TokenTimes
from transport.connection import UpstreamError, UpstreamResponse
from transport.headers import end_to_end
from transport.pool import ConnectError

PREFIXES = ("/v1/", "/v2/", "/inference/v1/", "/cohere/")
PATHS = frozenset(
    {
        "/classify",
        "/detokenize",
        "/generative_scoring",
        "/invocations",
        "/load",
        "/pooling",
        "/rerank",
        "/score",
        "/tokenize",
        "/tokenizer_info",
    }
)
"""Paths of vLLM's server for clients. Its control paths (sleep, collective_rpc, ...) are not passed on."""

MEDIA_TYPES = frozenset({b"application/json", b"multipart/form-data"})
"""Accepted media types of request bodies; audio is uploaded as a form."""

_SET_BY_THE_PROXY = frozenset(
    {b"content-length", b"expect", b"host", b"origin", b"traceparent", b"x-request-id", *CREDENTIALS}
)
"""Request fields that are not passed on as they came; the stage answers `Expect` and checks `Origin`."""
_SET_BY_THE_STAGE = frozenset({b"date", b"server", b"x-request-id"})
"""Response fields that this server sends itself."""
_WITH_STREAM_OPTIONS = frozenset({b"/v1/chat/completions", b"/v1/completions"})
_OK = 200
_ERROR_EVENT = b'data: {"error"'


class VllmProxy:
    """Has requests answered by vLLM's server; a `ProxyHandler`.

    Args:
        controller: gives the engine, or holds the request until there is one.
        metrics: where generations are counted.
    """

    def __init__(self, controller: WarmthController, metrics: Metrics) -> None:
        self._controller = controller
        self._metrics = metrics

    async def __call__(
        self, request: ProxyRequest, context: RequestContext, downstream: ProxyResponse
    ) -> None:
        """See `ProxyHandler`."""
        strip = False
        if context.caller.name and request.target.partition(b"?")[0] in _WITH_STREAM_OPTIONS:
            body, strip = ask_for_usage(request.body)
            request = replace(request, body=body)
        usage = UsageFilter(strip=strip) if context.caller.name else None
        while not await self._attempt(request, context, downstream, usage):
            pass

    async def _attempt(
        self,
        request: ProxyRequest,
        context: RequestContext,
        downstream: ProxyResponse,
        usage: UsageFilter | None,
    ) -> bool:
        """Send the request to the engine; False if that died before, so that the next engine can be tried."""
        async with self._controller.hot(context) as engine:
            try:
                with context.span("engine", "client") as traceparent:
                    response = await engine.pool.request(
                        engine.address,
                        request.method.encode(),
                        request.target,
                        _headers(request.headers, context, traceparent, len(request.body)),
                        request.body,
                    )
                    try:
                        await self._relay(response, engine, context, downstream, usage)
                    finally:
                        response.close()
            except ConnectError as error:
                # Nothing was sent. A socket closes before the death of its process is reported.
                if await engine.is_dying():
                    return False
                raise engine.died() from error
            except UpstreamError as error:
                raise engine.died() from error
        return True

    def _count(self, status: int, body: bytes) -> Usage | None:
        """Count a whole answer; its tokens, where it reports them."""
        known = usage_in(body)
        if known is not None and status == _OK:
            self._metrics.answer(known.completion_tokens, refused=refused(body))
        return known

    async def _relay(
        self,
        response: UpstreamResponse,
        engine: VllmEngine,
        context: RequestContext,
        downstream: ProxyResponse,
        usage: UsageFilter | None,
    ) -> None:
        status = response.status
        if status >= 500 and await engine.is_dying():
            raise engine.died()
        head = end_to_end(response.headers, without=_SET_BY_THE_STAGE)
        if not (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
            body = await response.read_all()
            engine.last_output = context.now()
            known = self._count(status, body)
            if usage is not None:
                context.usage = known
            await downstream.send_whole(status, head, body)
            return
        instants: list[float] = []
        beginning = Beginning()
        while data := await response.read():
            if _ERROR_EVENT in data and await engine.is_dying():
                raise engine.died()
            if not downstream.started:
                context.ttft = context.now() - context.arrived
                context.record(Phase.PREFILL, context.ttft)
                await downstream.start(status, head)
            beginning.add(data)
            now = engine.last_output = context.now()
            instants.extend((now,) * tokens_in(data))
            if usage is not None:
                data = usage.feed(data)
                context.usage = usage.usage or Usage(completion_tokens=len(instants))
                if not data:
                    continue
            await downstream.send(data)
        if usage is not None and (rest := usage.rest()):
            await downstream.send(rest)
        await downstream.end()
        times = TokenTimes(context.arrived, tuple(instants))
        self._metrics.generation(times, None, refused=beginning.refused)


def _headers(
    headers: Iterable[tuple[bytes, bytes]], context: RequestContext, traceparent: str, length: int
) -> list[tuple[bytes, bytes]]:
    passed = end_to_end(headers, without=_SET_BY_THE_PROXY)
    passed.append((b"host", b"vllm"))
    if length:
        passed.append((b"content-length", b"%d" % length))
    passed.append((b"x-request-id", context.request_id.encode()))
    passed.append((b"traceparent", traceparent.encode()))
    return passed


def direct_route(proxy: VllmProxy, stage: str) -> DirectRoute:
    """Route vLLM's paths to the proxy, past the framework, which would wrap every token once more.

    Args:
        proxy: has them answered.
        stage: the stage's name, for problems.
    """
    return DirectRoute(ReverseProxy(proxy, stage), PREFIXES, PATHS, MEDIA_TYPES)
