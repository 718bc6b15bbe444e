"""The rest of the function URL: every path of vLLM's own server, passed through token by token.

How a request and its response are passed on is in `functions.http.reverse_proxy`; here is what is vLLM's own.
"""

from __future__ import annotations

from collections.abc import Iterable

from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.ladder import Ladder
from functions.http.middleware import Scope, Shortcut
from functions.http.reverse_proxy import Answer, Passing, tokens_in
from functions.metrics import Metrics
from functions.stage import RequestContext
from functions.timing import Phase, TokenTimes
from transport import RefusedError, Response, UpstreamError

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

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"traceparent",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)
_NOT_BACK = frozenset(
    {b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding", b"x-request-id"}
)
_ERROR_EVENT = b'data: {"error"'


class Proxy:
    """Answers by vLLM's server; a `Forward`.

    Args:
        ladder: gives the engine, or holds the request until there is one.
        metrics: where generations are counted.
    """

    def __init__(self, ladder: Ladder, metrics: Metrics) -> None:
        self._ladder = ladder
        self._metrics = metrics

    async def __call__(self, scope: Scope, body: bytes, context: RequestContext, answer: Answer) -> None:
        """See `Forward`."""
        while not await self._attempt(scope, body, context, answer):
            pass

    async def _attempt(self, scope: Scope, body: bytes, context: RequestContext, answer: Answer) -> bool:
        """Ask the engine; False when it had died before it could be asked, so that the next one can be."""
        async with self._ladder.hot(context) as engine:
            try:
                response = await engine.pool.request(
                    engine.address,
                    scope["method"].encode(),
                    _target(scope),
                    _headers(scope["headers"], context, len(body)),
                    body,
                )
                try:
                    await self._relay(response, engine, context, answer)
                finally:
                    response.close()
            except RefusedError as error:
                # Nothing was sent. The socket is closed before the death of its process is told.
                if await engine.is_dying():
                    return False
                raise engine.died() from error
            except UpstreamError as error:
                raise engine.died() from error
        return True

    async def _relay(
        self, response: Response, engine: VllmEngine, context: RequestContext, answer: Answer
    ) -> None:
        status = response.status
        if status >= 500 and await engine.is_dying():
            raise engine.died()
        head = [(key, value) for key, value in response.headers if key.lower() not in _NOT_BACK]
        if not (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
            body = await response.read_all()
            engine.last_heard = context.now()
            await answer.whole(status, head, body)
            return
        instants: list[float] = []
        while data := await response.read():
            if _ERROR_EVENT in data and await engine.is_dying():
                raise engine.died()
            if not answer.begun:
                context.ttft = context.now() - context.arrived
                context.record(Phase.PREFILL, context.ttft)
                await answer.begin(status, head)
            now = engine.last_heard = context.now()
            instants.extend((now,) * tokens_in(data))
            await answer.more(data)
        await answer.end()
        self._metrics.generation(TokenTimes(context.arrived, tuple(instants)), None)


def _target(scope: Scope) -> bytes:
    path: bytes = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    query: bytes = scope.get("query_string") or b""
    return path + b"?" + query if query else path


def _headers(
    headers: Iterable[tuple[bytes, bytes]], context: RequestContext, length: int
) -> list[tuple[bytes, bytes]]:
    passed = [field for field in headers if field[0] not in _HOP_BY_HOP]
    passed.append((b"host", b"vllm"))
    if length:
        passed.append((b"content-length", b"%d" % length))
    passed.append((b"x-request-id", context.request_id.encode()))
    passed.append((b"traceparent", context.traceparent.encode()))
    return passed


def shortcut(proxy: Proxy, stage: str) -> Shortcut:
    """Bring vLLM's paths straight to the proxy: the framework would wrap every token once more.

    Args:
        proxy: gets them answered.
        stage: name for problems.
    """
    return Shortcut(Passing(proxy, stage), PREFIXES, PATHS)
