"""The rest of the function URL: every path of vLLM's own server, passed through token by token.

How a request and its response are passed on is in `functions.http.reverse_proxy`; here is what is vLLM's own.
"""

from __future__ import annotations

from collections.abc import Iterable

from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.ladder import Ladder
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
        "/version",
    }
)
"""What of vLLM's server is for clients; its control paths (sleep, collective_rpc, ...) are not passed on."""

MEDIA_TYPES = frozenset({b"application/json", b"multipart/form-data"})
"""Of request bodies; audio is uploaded as a form."""

_SET_BY_THE_PROXY = frozenset(
    {b"content-length", b"expect", b"host", b"origin", b"traceparent", b"x-request-id"}
)
"""Request fields that are not passed on as they came; the stage answers `Expect` and checks `Origin`."""
_SET_BY_THE_STAGE = frozenset({b"date", b"server", b"x-request-id"})
"""Response fields that this server sends itself."""
_ERROR_EVENT = b'data: {"error"'


class Proxy:
    """Answers by vLLM's server; a `ProxyHandler`.

    Args:
        ladder: gives the engine, or holds the request until there is one.
        metrics: where generations are counted.
    """

    def __init__(self, ladder: Ladder, metrics: Metrics) -> None:
        self._ladder = ladder
        self._metrics = metrics

    async def __call__(
        self, request: ProxyRequest, context: RequestContext, downstream: ProxyResponse
    ) -> None:
        """See `ProxyHandler`."""
        while not await self._attempt(request, context, downstream):
            pass

    async def _attempt(
        self, request: ProxyRequest, context: RequestContext, downstream: ProxyResponse
    ) -> bool:
        """Ask the engine; False when it had died before it could be asked, so that the next one can be."""
        async with self._ladder.hot(context) as engine:
            try:
                response = await engine.pool.request(
                    engine.address,
                    request.method.encode(),
                    request.target,
                    _headers(request.headers, context, len(request.body)),
                    request.body,
                )
                try:
                    await self._relay(response, engine, context, downstream)
                finally:
                    response.close()
            except ConnectError as error:
                # Nothing was sent. The socket is closed before the death of its process is told.
                if await engine.is_dying():
                    return False
                raise engine.died() from error
            except UpstreamError as error:
                raise engine.died() from error
        return True

    async def _relay(
        self,
        response: UpstreamResponse,
        engine: VllmEngine,
        context: RequestContext,
        downstream: ProxyResponse,
    ) -> None:
        status = response.status
        if status >= 500 and await engine.is_dying():
            raise engine.died()
        head = end_to_end(response.headers, without=_SET_BY_THE_STAGE)
        if not (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
            body = await response.read_all()
            engine.last_heard = context.now()
            await downstream.send_whole(status, head, body)
            return
        instants: list[float] = []
        while data := await response.read():
            if _ERROR_EVENT in data and await engine.is_dying():
                raise engine.died()
            if not downstream.started:
                context.ttft = context.now() - context.arrived
                context.record(Phase.PREFILL, context.ttft)
                await downstream.start(status, head)
            now = engine.last_heard = context.now()
            instants.extend((now,) * tokens_in(data))
            await downstream.send(data)
        await downstream.end()
        self._metrics.generation(TokenTimes(context.arrived, tuple(instants)), None)


def _headers(
    headers: Iterable[tuple[bytes, bytes]], context: RequestContext, length: int
) -> list[tuple[bytes, bytes]]:
    passed = end_to_end(headers, without=_SET_BY_THE_PROXY)
    passed.append((b"host", b"vllm"))
    if length:
        passed.append((b"content-length", b"%d" % length))
    passed.append((b"x-request-id", context.request_id.encode()))
    passed.append((b"traceparent", context.traceparent.encode()))
    return passed


def direct_route(proxy: Proxy, stage: str) -> DirectRoute:
    """Bring vLLM's paths straight to the proxy: the framework would wrap every token once more.

    Args:
        proxy: gets them answered.
        stage: name for problems.
    """
    return DirectRoute(ReverseProxy(proxy, stage), PREFIXES, PATHS, MEDIA_TYPES)
