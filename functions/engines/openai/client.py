"""`Engine` over any OpenAI-compatible URL: a hosted API, another cluster's model, a gateway.

The key comes from the file that `OPENAI_API_KEY_FILE` names, or from `OPENAI_API_KEY`. It is sent to
`base-url` only and never appears in a log, a problem or a readiness body: it is removed from what the server
says.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import stamina
from pydantic import JsonValue

from functions.contract import Parameters
from functions.engine import (
    ChatRequest,
    Chunk,
    Embeddings,
    EmbedRequest,
    EngineError,
    EngineInfo,
    GenerateRequest,
)
from functions.engines import openai_dialect as dialect
from functions.engines.openai.options import OpenAIArgs
from functions.problems import seconds_of
from functions.stage import StartError
from functions.text.redaction import DETECTORS, redact

_MESSAGE_CHARS = 300
"""Characters of a server's message that are passed on."""


class OpenAIEngine:
    """The engine.

    Args:
        session: owned by the engine, closed with it.
        args: the engine's options.
        model: the model's name at `base-url`.
        key: sent as a bearer token; None for a server that needs none.
    """

    def __init__(
        self, session: aiohttp.ClientSession, args: OpenAIArgs, *, model: str, key: str | None
    ) -> None:
        self._session = session
        self._args = args
        self._model = model
        self._key = key
        self._max_model_len: int | None = None

    @property
    def info(self) -> EngineInfo:
        """What runs; the version is not known."""
        return EngineInfo("openai", None, self._model, self._max_model_len)

    @property
    def extra_body(self) -> dict[str, JsonValue]:
        """Members that are added to every request."""
        return dict(self._args.extra_body)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """See `Engine.generate`."""
        members: dict[str, Any]
        if self._args.text_as_chat:
            path, members = "/chat/completions", {"messages": [{"role": "user", "content": request.prompt}]}
        else:
            path, members = "/completions", {"prompt": request.prompt}
        async for chunk in self._stream(path, request.id, members, request.parameters):
            yield chunk

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """See `Engine.chat`."""
        members = {
            "messages": dialect.message_members(request.messages),
            **dialect.tool_members(request.parameters),
        }
        async for chunk in self._stream("/chat/completions", request.id, members, request.parameters):
            yield chunk

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """See `Engine.embed`."""
        body = {**self._args.extra_body, "model": self._model, "input": list(request.inputs)}
        async with self.post("/embeddings", request.id, body) as response:
            try:
                return dialect.read_embeddings(await response.read(), len(request.inputs))
            except dialect.DialectError as error:
                raise malformed(error) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def check(self) -> None:
        """Request the list of models, to find a wrong address or key before the first request does.

        Raises:
            StartError: unreachable for `start-seconds`, or the key is refused.
        """
        try:
            async for attempt in stamina.retry_context(
                on=(aiohttp.ClientError, OSError),
                attempts=None,
                timeout=self._args.start_seconds,
                wait_max=2.0,
            ):
                with attempt:
                    async with self._session.get(
                        f"{self._args.base_url}/models", headers=self._headers("start")
                    ) as response:
                        body = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise StartError(f"base-url = {self._args.base_url}: {self._redacted(str(error))}") from None
        if response.status in {401, 403}:
            raise StartError(
                f"base-url = {self._args.base_url}: the key was refused ({response.status}); "
                "must be in OPENAI_API_KEY_FILE or OPENAI_API_KEY"
            )
        # A server without this path may still have the others.
        if response.status == 200:
            self._max_model_len = dialect.read_max_model_len(body, self._model)

    @asynccontextmanager
    async def post(
        self, path: str, request_id: str, body: dict[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 200. Leaving before its end closes the connection, which ends the generation.

        Raises:
            EngineError: another status, a server that is silent or cannot be reached.
        """
        try:
            async with self._session.post(
                f"{self._args.base_url}{path}", json=body, headers=self._headers(request_id)
            ) as response:
                if response.status != 200:
                    after = seconds_of(response.headers.get("Retry-After"), now=time.time())
                    raise self._refusal(response.status, await response.read(), retry_after=after)
                yield response
        except TimeoutError as error:
            # aiohttp's timeouts are subclasses of both; any other one is the request's deadline.
            if not isinstance(error, aiohttp.ServerTimeoutError):
                raise
            raise EngineError("the engine has gone silent", retryable=True, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            cause = self._redacted(str(error) or type(error).__name__)
            raise EngineError(f"the engine cannot be reached: {cause}", retryable=True) from None

    async def _stream(
        self, path: str, request_id: str, members: dict[str, Any], parameters: Parameters
    ) -> AsyncIterator[Chunk]:
        body = {
            **self._args.extra_body,
            "model": self._model,
            **members,
            **self._sampling_members(parameters),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self.post(path, request_id, body) as response:
            try:
                async for chunk in dialect.read_chunks(dialect.stream_objects(response.content.iter_any())):
                    yield chunk
            except dialect.StreamError as error:
                raise self._refusal(502, error.body) from None
            except dialect.DialectError as error:
                raise malformed(error) from None
            except dialect.CutOffError:
                raise cut_off() from None

    def _headers(self, request_id: str) -> dict[str, str]:
        headers = {"X-Request-Id": request_id}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _sampling_members(self, parameters: Parameters) -> dict[str, Any]:
        members = dialect.sampling_members(parameters)
        if "max_tokens" in members:
            members[self._args.max_tokens_field] = members.pop("max_tokens")
        return members

    def _refusal(self, status: int, body: bytes, *, retry_after: float | None = None) -> EngineError:
        if status in {401, 403}:
            # The server's text may quote the key, and the client of this stage cannot change anything.
            return EngineError("the engine refused this stage's key", retryable=False, status=502)
        if status == 404:
            return EngineError(
                f"the engine has no model {self._model!r}, or does not offer this operation",
                retryable=False,
                status=502,
            )
        message = self._redacted(dialect.error_message(body) or "no reason given")
        if status == 429 or status >= 500:
            return EngineError(
                f"the engine answered {status}: {message}",
                retryable=True,
                status=status if status in {429, 502, 504} else 503,
                retry_after=retry_after,
            )
        return EngineError(f"the engine refused the request: {message}", retryable=False, status=400)

    def _redacted(self, text: str) -> str:
        if self._key is not None:
            text = text.replace(self._key, "[redacted key]")
        return redact(text[:_MESSAGE_CHARS], [DETECTORS["key"]], replacement="[redacted {kind}]").text


def cut_off() -> EngineError:
    """The error for a stream that ends without a finish reason."""
    return EngineError("the engine's stream was cut off before its end", retryable=True, status=502)


def malformed(error: dialect.DialectError) -> EngineError:
    """The error for a response that does not follow the API."""
    return EngineError(f"the engine sent {error}", retryable=False, status=502)
