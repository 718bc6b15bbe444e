"""The engine behind the socket: vLLM's own OpenAI server, as an `Engine`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from functions.contract import FinishReason, Parameters, Usage
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
from transport.pool import ConnectionPool

BASE = "http://vllm"
_DEAD = "the engine died before the answer was complete; another is being started"
_RETRY_AFTER = 1.0
_UNUSED_SECONDS = 5.0
"""How long requests may take to notice that their engine is gone."""
_DEATH_IS_TOLD_SECONDS = 0.5
"""How long after a failed answer the engine's death may become known."""


def open_session(path: Path) -> aiohttp.ClientSession:
    """A client of the server on this socket, without limits of its own: the engine queues."""
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(path), limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        read_bufsize=1 << 18,
    )


class VllmEngine:
    """The server of vLLM on a unix socket.

    Args:
        path: of the socket.
        info: what runs.
        dead: done when the engine cannot answer any more.
    """

    def __init__(self, path: Path, info: EngineInfo, dead: asyncio.Future[str]) -> None:
        self.address = str(path)
        self.session = open_session(path)
        """For questions of our own."""
        self.pool = ConnectionPool()
        """For requests that are passed on as they are."""
        self.last_heard = time.monotonic()
        """Instant at which the engine last said anything (monotonic); kept by whoever reads its answers."""
        self._info = info
        self._dead = dead
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def enter(self) -> None:
        """Keep the connections: a request has the engine until it calls `leave`."""
        self._users += 1
        self._unused.clear()

    def leave(self) -> None:
        """The request is over."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    @classmethod
    def on(cls, path: Path, dead: asyncio.Future[str], *, model: str, version: str) -> VllmEngine:
        """The engine that listens on this socket."""
        return cls(path, EngineInfo("vllm", version, model), dead)

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
        body = {"prompt": request.prompt, **_sampling(request.parameters)}
        async for choice in self._stream("/v1/completions", request.id, body):
            yield _chunk(choice, str(choice.get("text") or ""))

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """Stream an answer; see `Engine.chat`."""
        messages = [{"role": str(message.role), "content": message.content} for message in request.messages]
        body = {"messages": messages, **_sampling(request.parameters)}
        async for choice in self._stream("/v1/chat/completions", request.id, body):
            yield _chunk(choice, str((choice.get("delta") or {}).get("content") or ""))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Vectors of the inputs; see `Engine.embed`."""
        body = {"model": self._info.model, "input": list(request.inputs)}
        try:
            async with self.session.post(
                BASE + "/v1/embeddings", json=body, headers={"X-Request-Id": request.id}
            ) as response:
                if response.status == 404:
                    raise UnsupportedError("vllm", "embeddings of this model")
                if response.status != 200:
                    raise await self._refusal(response.status, await response.read())
                answer = await response.json()
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self.died() from error
        vectors = sorted(answer["data"], key=lambda item: item["index"])
        return Embeddings(tuple(tuple(item["embedding"]) for item in vectors), _usage(answer.get("usage")))

    async def close(self) -> None:
        """Close the connections once no request needs them; the engine's processes are its owner's."""
        # A connection that is closed under a reader leaves it waiting for ever (aiohttp drops the payload).
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._unused.wait(), _UNUSED_SECONDS)
        self.pool.close()
        await self.session.close()

    async def warm_up(self) -> None:
        """One real token (or vector) through the whole engine; also learns what the engine says of the model.

        Raises:
            EngineError: it cannot answer.
            aiohttp.ClientError: it is gone.
        """
        async with self.session.get(BASE + "/v1/models") as response:
            card = (await response.json())["data"][0]
        self._info = dataclasses.replace(self._info, max_model_len=card.get("max_model_len"))
        request = GenerateRequest("warmup", "0", Parameters(max_tokens=1, temperature=0.0))
        try:
            async for _ in self.generate(request):
                pass
        except EngineError as error:
            if error.status != 404:
                raise
            # vLLM offers this path only for models that generate.
            await self.embed(EmbedRequest("warmup", ("0",)))

    async def answers(self, seconds: float) -> bool:
        """Whether the engine core, not only its server, answers within this time."""
        try:
            async with self.session.get(
                BASE + "/is_sleeping", timeout=aiohttp.ClientTimeout(total=seconds)
            ) as response:
                heard = response.status == 200
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return False
        if heard:
            self.last_heard = time.monotonic()
        return heard

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
            async with self.session.post(BASE + path, params=dict(query), json=body) as response:
                if response.status != 200:
                    raise await self._refusal(response.status, await response.read())
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self.died() from error

    def died(self) -> EngineError:
        """What a request is told whose engine is gone."""
        return EngineError(_DEAD, retryable=True, status=503, retry_after=_RETRY_AFTER)

    async def is_dying(self) -> bool:
        """Whether the engine's death becomes known in the next moments; asked after an answer of 5xx."""
        await asyncio.wait({self._dead}, timeout=_DEATH_IS_TOLD_SECONDS)
        return self._dead.done()

    async def _stream(
        self, path: str, request_id: str, body: Mapping[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """The choices of a streamed answer; the last one has `usage` beside its own members."""
        whole = {"model": self._info.model, **body, "stream": True, "stream_options": {"include_usage": True}}
        held: dict[str, Any] | None = None
        try:
            async with self.session.post(
                BASE + path, json=whole, headers={"X-Request-Id": request_id}
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response.status, await response.read())
                async for event in _events(response.content):
                    self.last_heard = time.monotonic()
                    if "error" in event:
                        raise await self._refusal(500, json.dumps(event).encode())
                    for choice in event.get("choices") or ():
                        if choice.get("finish_reason"):
                            held = choice  # until the usage is here
                        else:
                            yield choice
                    if event.get("usage") and held is not None:
                        yield {**held, "usage": event["usage"]}
                        return
        except (aiohttp.ClientError, ConnectionError) as error:
            raise self.died() from error
        if held is None:
            raise self.died()
        yield held

    async def _refusal(self, status: int, body: bytes) -> EngineError:
        if status >= 500 and await self.is_dying():
            return self.died()
        try:
            error = json.loads(body)["error"]
            message = str(error["message"])
        except (ValueError, KeyError, TypeError):
            message = f"vLLM answered {status}"
        return EngineError(message, retryable=status in {429, 503}, status=status)


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, up to `[DONE]`."""
    rest = b""
    while data := await content.readany():
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: "):
                continue
            payload = event[6:]
            if payload == b"[DONE]":
                return
            yield json.loads(payload)


def _sampling(parameters: Parameters) -> dict[str, Any]:
    """The contract's names are vLLM's own; what is None is left to vLLM."""
    fields = parameters.model_dump(exclude_none=True)
    if not fields.get("stop"):
        fields.pop("stop", None)
    if not fields.get("ignore_eos"):
        fields.pop("ignore_eos", None)
    return fields


def _chunk(choice: Mapping[str, Any], text: str) -> Chunk:
    reason = choice.get("finish_reason")
    usage = choice.get("usage")
    return Chunk(
        text,
        finish_reason=None if reason is None else _finish_reason(str(reason)),
        usage=None if usage is None else _usage(usage),
    )


def _finish_reason(reason: str) -> FinishReason:
    try:
        return FinishReason(reason)
    except ValueError:
        # vLLM knows more reasons than OpenAI's list (repetition, for one); all of them mean an early end.
        return FinishReason.STOP


def _usage(usage: Mapping[str, Any] | None) -> Usage:
    usage = usage or {}
    return Usage(prompt_tokens=usage.get("prompt_tokens"), completion_tokens=usage.get("completion_tokens"))
