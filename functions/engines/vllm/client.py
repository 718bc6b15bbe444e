"""`Engine` over vLLM's own OpenAI server on a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from functions.contract import Parameters
from functions.dialogue import Message, Role
from functions.engine import (
    ChatRequest,
    Chunk,
    Embeddings,
    EmbedRequest,
    EngineError,
    EngineInfo,
    GenerateRequest,
    UnsupportedError,
)
from functions.engines import openai_dialect as dialect
from functions.engines.vllm.special_token_text import SpecialTokenText
from transport.pool import UpstreamPool

BASE_URL = "http://vllm"
"""The host name means nothing on a unix socket."""
_DEAD = "the engine died before the answer was complete; another is being started"
_RETRY_AFTER = 1.0
_UNUSED_SECONDS = 5.0
"""How long requests may take to notice that their engine is gone."""
_DEATH_NOTICE_SECONDS = 0.5
"""How long after a failed response the engine's death may become known."""


def open_session(path: Path) -> aiohttp.ClientSession:
    """A client of the server on this socket, without a limit of connections: the engine queues requests."""
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(path), limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        read_bufsize=1 << 18,
    )


class VllmEngine:
    """The engine.

    Args:
        path: the socket.
        info: what runs.
        dead: done when the engine cannot answer any more.
        special_tokens: those of the model; None to let all of them act.
    """

    def __init__(
        self,
        path: Path,
        info: EngineInfo,
        dead: asyncio.Future[str],
        special_tokens: SpecialTokenText | None = None,
    ) -> None:
        self.address = str(path)
        self.session = open_session(path)
        """For requests that this class makes."""
        self.pool = UpstreamPool()
        """For requests that the proxy passes on as they are."""
        self.last_output = time.monotonic()
        """Instant (monotonic) at which the engine last sent anything; set by the reader of each response."""
        self._info = info
        self._dead = dead
        self._special_tokens = special_tokens
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def enter(self) -> None:
        """A request uses the engine until it calls `leave`; `close` waits for that."""
        self._users += 1
        self._unused.clear()

    def leave(self) -> None:
        """The request has ended."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    @classmethod
    def on(
        cls,
        path: Path,
        dead: asyncio.Future[str],
        *,
        model: str,
        version: str,
        special_tokens: SpecialTokenText | None = None,
    ) -> VllmEngine:
        """The engine that listens on this socket."""
        return cls(path, EngineInfo("vllm", version, model), dead, special_tokens)

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    @property
    def dead(self) -> asyncio.Future[str]:
        """Done when the engine cannot answer any more, with the cause."""
        return self._dead

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Stream a completion; see `Engine.generate`."""
        members = {"prompt": request.prompt}
        async for chunk in self._stream("/v1/completions", request.id, members, request.parameters):
            yield chunk

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """Stream an answer; see `Engine.chat`. Special tokens in messages are text unless these keep them."""
        path, parameters = "/v1/chat/completions", request.parameters
        members: dict[str, Any] = {
            "messages": _messages(request.messages),
            **dialect.tool_members(parameters),
        }
        special = self._special_tokens
        if special is not None and special.needed_for(request.messages):
            # The completions API, which takes ids, neither lays out tools and parts nor finds calls.
            plain = not parameters.tools and all(_is_plain(message) for message in request.messages)
            ids = await self.prompt_ids(request.messages) if plain else None
            if ids is None:
                members["messages"] = _messages(special.broken(request.messages))
            else:
                path, members = "/v1/completions", {"prompt": ids}
                # The completions API would end after 16 tokens, the chat API at the model's length.
                left = max(1, (self._info.max_model_len or 0) - len(ids))
                parameters = parameters.model_copy(update={"max_tokens": parameters.max_tokens or left})
        async for chunk in self._stream(path, request.id, members, parameters):
            yield chunk

    async def prompt_ids(self, messages: Sequence[Message]) -> list[int] | None:
        """The token ids of a conversation whose messages' special tokens are text.

        None where the model's tokenizer cannot take them as text.

        Raises:
            EngineError: vLLM refuses the conversation, or is gone.
        """
        assert self._special_tokens is not None
        try:
            exchanged = self._special_tokens.exchanged(messages)
        except ValueError:
            return None
        ids, other = await asyncio.gather(self._tokenize(messages), self._tokenize(exchanged))
        return await self._special_tokens.as_text(ids, other)

    async def _tokenize(self, messages: Sequence[Message]) -> list[int]:
        body = {"model": self._info.model, "messages": _messages(messages)}
        try:
            async with self.session.post(BASE_URL + "/tokenize", json=body) as response:
                content = await response.read()
                if response.status != 200:
                    raise await self._refusal(response.status, content)
                return [int(number) for number in json.loads(content)["tokens"]]
        except (ValueError, KeyError, TypeError) as error:
            raise _malformed(dialect.DialectError(f"no tokens ({type(error).__name__})")) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self.died() from error

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Vectors of the inputs; see `Engine.embed`."""
        body = {"model": self._info.model, "input": list(request.inputs)}
        try:
            async with self.session.post(
                BASE_URL + "/v1/embeddings", json=body, headers={"X-Request-Id": request.id}
            ) as response:
                if response.status == 404:
                    raise UnsupportedError("vllm", "embeddings of this model")
                if response.status != 200:
                    raise await self._refusal(response.status, await response.read())
                return dialect.read_embeddings(await response.read(), len(request.inputs))
        except dialect.DialectError as error:
            raise _malformed(error) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self.died() from error

    async def close(self) -> None:
        """Close the connections once no request uses them. The engine's processes are not touched."""
        # aiohttp leaves a reader waiting for ever whose connection is closed.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._unused.wait(), _UNUSED_SECONDS)
        self.pool.close()
        await self.session.close()

    async def warm_up(self) -> None:
        """Generate one token (or vector), and read the model's context length.

        Raises:
            EngineError: it cannot answer.
            aiohttp.ClientError: it is gone.
        """
        async with self.session.get(BASE_URL + "/v1/models") as response:
            card = (await response.json())["data"][0]
        self._info = dataclasses.replace(self._info, max_model_len=card.get("max_model_len"))
        request = GenerateRequest("warmup", "0", Parameters(max_tokens=1, temperature=0.0))
        try:
            async for _ in self.generate(request):
                pass
        except EngineError as error:
            if error.status != 404:
                raise
            # vLLM has this path only for models that generate.
            await self.embed(EmbedRequest("warmup", ("0",)))

    async def answers(self, seconds: float) -> bool:
        """Whether the engine core, not only its server, answers within this time."""
        try:
            async with self.session.get(
                BASE_URL + "/is_sleeping", timeout=aiohttp.ClientTimeout(total=seconds)
            ) as response:
                answered = response.status == 200
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return False
        if answered:
            self.last_output = time.monotonic()
        return answered

    async def sleep(self, level: int) -> None:
        """Free the device's memory: level 1 keeps the weights in host memory, level 2 drops them. CUDA only.

        Raises:
            EngineError: it did not.
        """
        await self._control("/sleep", {"level": str(level)})

    async def wake(self, level: int) -> None:
        """Undo `sleep` of this level; after level 2 the weights are read again from their files.

        Raises:
            EngineError: it did not.
        """
        if level == 1:
            await self._control("/wake_up", {})
            return
        await self._control("/wake_up", {"tags": "weights"})
        await self._control("/collective_rpc", {}, body={"method": "reload_weights"})
        await self._control("/wake_up", {"tags": "kv_cache"})

    async def _control(
        self, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> None:
        try:
            async with self.session.post(BASE_URL + path, params=dict(query), json=body) as response:
                if response.status != 200:
                    raise await self._refusal(response.status, await response.read())
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self.died() from error

    def died(self) -> EngineError:
        """The error for a request whose engine is gone."""
        return EngineError(_DEAD, retryable=True, status=503, retry_after=_RETRY_AFTER)

    async def is_dying(self) -> bool:
        """Whether the engine's death becomes known within a moment; for use after a response of 5xx."""
        await asyncio.wait({self._dead}, timeout=_DEATH_NOTICE_SECONDS)
        return self._dead.done()

    async def _stream(
        self, path: str, request_id: str, members: Mapping[str, Any], parameters: Parameters
    ) -> AsyncIterator[Chunk]:
        body = {
            "model": self._info.model,
            **members,
            **dialect.sampling_members(parameters),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self.session.post(
                BASE_URL + path, json=body, headers={"X-Request-Id": request_id}
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response.status, await response.read())
                async for chunk in dialect.read_chunks(
                    dialect.stream_objects(self._pieces(response.content))
                ):
                    yield chunk
        except dialect.DialectError as error:
            raise _malformed(error) from None
        except dialect.StreamError as error:
            raise await self._refusal(500, error.body) from None
        except (aiohttp.ClientError, ConnectionError, dialect.CutOffError) as error:
            raise self.died() from error

    async def _pieces(self, content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        """The response's body as it arrives; notes that the engine sent something."""
        while piece := await content.readany():
            self.last_output = time.monotonic()
            yield piece

    async def _refusal(self, status: int, body: bytes) -> EngineError:
        if status >= 500 and await self.is_dying():
            return self.died()
        message = dialect.error_message(body) or f"vLLM answered {status}"
        return EngineError(message, retryable=status in {429, 503}, status=status)


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The member `messages`. Chat templates of open models know `system`, where OpenAI's say `developer`."""
    return dialect.message_members(messages, developer=Role.SYSTEM)


def _is_plain(message: Message) -> bool:
    return isinstance(message.content, str) and not message.tool_calls and message.role is not Role.TOOL


def _malformed(error: dialect.DialectError) -> EngineError:
    return EngineError(f"vLLM sent {error}", retryable=False, status=502)
