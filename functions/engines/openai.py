"""An engine behind any OpenAI-compatible URL: a hosted API, another cluster's model, a gateway.

The key comes from the file that `OPENAI_API_KEY_FILE` names, or from `OPENAI_API_KEY`. It is sent to
`base-url` only, and never stands in a log, a problem or a readiness body: what the other side says is
cleaned of it first.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import urlsplit

import aiohttp
import stamina
from pydantic import Field, JsonValue, field_validator

from functions.contract import FinishReason, Parameters, Usage
from functions.engine import (
    ChatRequest,
    Chunk,
    Embeddings,
    EmbedRequest,
    Engine,
    EngineError,
    EngineInfo,
    GenerateRequest,
)
from functions.engines.embedding_api import embedding_router
from functions.engines.hosted import EngineArgs, SteadyHost, parse_args
from functions.problems import seconds_of
from functions.replica import Replica
from functions.settings import Settings, SettingsError, read_secret
from functions.stage import StageRoutes, StageRuntime, StartError
from functions.text.redaction import DETECTORS, redact
from functions.timing import Phase
from knative import env_vars
from transport.sse import EventParser

CONNECT_SECONDS = 10.0
_MESSAGE_CHARS = 300


class OpenAIArgs(EngineArgs):
    """`PILOTLIGHT_ENGINE_ARGS` of this engine."""

    base_url: str
    """As OpenAI's clients have it, with the version: `https://api.openai.com/v1`."""
    model: str | None = None
    """Name there; `PILOTLIGHT_MODEL_NAME` without it."""
    text_as_chat: bool = False
    """Send a plain text as a user's message, for an API without `/completions`."""
    max_tokens_field: str = "max_tokens"
    """Name of that parameter; newer models of OpenAI want `max_completion_tokens`."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """Members added to every request."""
    silence_seconds: Annotated[float, Field(gt=0)] = 120.0
    """How long the other side may say nothing before the request fails, retryably."""
    start_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long it may be unreachable at the start."""

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            raise ValueError("must be a URL such as https://host/v1, without credentials or a query")
        return value.rstrip("/")


class OpenAIEngine:
    """The engine.

    Args:
        session: owned; closed with the engine.
        args: where and how.
        model: name there.
        key: sent as bearer token; None for an API that wants none.
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

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """See `Engine.generate`."""
        own: dict[str, Any]
        if self._args.text_as_chat:
            path, own = "/chat/completions", {"messages": [{"role": "user", "content": request.prompt}]}
        else:
            path, own = "/completions", {"prompt": request.prompt}
        async for chunk in self._stream(path, request.id, own, request.parameters):
            yield chunk

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """See `Engine.chat`."""
        messages = [{"role": message.role.value, "content": message.content} for message in request.messages]
        async for chunk in self._stream(
            "/chat/completions", request.id, {"messages": messages}, request.parameters
        ):
            yield chunk

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """See `Engine.embed`."""
        body = {**self._args.extra_body, "model": self._model, "input": list(request.inputs)}
        async with self.post("/embeddings", request.id, body) as response:
            answer = await response.read()
        try:
            parsed = json.loads(answer)
            rows = sorted(parsed["data"], key=lambda row: row["index"])
            vectors = tuple(tuple(float(x) for x in row["embedding"]) for row in rows)
            usage = Usage(prompt_tokens=parsed.get("usage", {}).get("prompt_tokens"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._broken(f"no embeddings ({type(error).__name__})") from None
        if len(vectors) != len(request.inputs):
            raise self._broken(f"{len(vectors)} vectors for {len(request.inputs)} inputs")
        return Embeddings(vectors, usage)

    @property
    def extra_body(self) -> dict[str, JsonValue]:
        """Members that are added to every request."""
        return dict(self._args.extra_body)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def check(self) -> None:
        """Ask for the models: finds a wrong address or key before the first request does.

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
            raise StartError(f"base-url = {self._args.base_url}: {self._clean(str(error))}") from None
        if response.status in {401, 403}:
            raise StartError(
                f"base-url = {self._args.base_url}: the key was refused ({response.status}); "
                "must be in OPENAI_API_KEY_FILE or OPENAI_API_KEY"
            )
        # An API without this path may still have the others.
        if response.status == 200:
            self._max_model_len = _length_of(self._model, body)

    async def _stream(
        self, path: str, request_id: str, own: dict[str, Any], parameters: Parameters
    ) -> AsyncGenerator[Chunk, None]:
        body = {
            **self._args.extra_body,
            "model": self._model,
            **own,
            **self._sampling(parameters),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reason: FinishReason | None = None
        usage: Usage | None = None
        async with self.post(path, request_id, body) as response:
            async for event in self._events(response):
                if event.get("error"):
                    raise self._refused(502, json.dumps(event).encode(), retryable=True)
                choice = (event.get("choices") or [{}])[0]
                text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                if choice.get("finish_reason"):
                    reason = _reason(str(choice["finish_reason"]))
                if event.get("usage"):
                    counts = event["usage"]
                    usage = Usage(
                        prompt_tokens=counts.get("prompt_tokens"),
                        completion_tokens=counts.get("completion_tokens"),
                    )
                if text:
                    yield Chunk(text)
        if reason is None:
            raise EngineError("the engine's stream was cut off before its end", retryable=True, status=502)
        yield Chunk("", finish_reason=reason, usage=usage)

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
        parser = EventParser()
        try:
            async for piece in response.content.iter_any():
                for raw in parser.feed(piece):
                    if raw.data.strip() == "[DONE]":
                        return
                    value = json.loads(raw.data)
                    if not isinstance(value, dict):
                        raise self._broken("an event that is no object")
                    yield value
        except ValueError as error:
            raise self._broken(f"what is no event ({type(error).__name__})") from None

    @asynccontextmanager
    async def post(
        self, path: str, request_id: str, body: dict[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 200; leaving early closes the connection, which ends the generation."""
        try:
            async with self._session.post(
                f"{self._args.base_url}{path}", json=body, headers=self._headers(request_id)
            ) as response:
                if response.status != 200:
                    after = seconds_of(response.headers.get("Retry-After"), now=time.time())
                    raise self._refused(response.status, await response.read(), retry_after=after)
                yield response
        except TimeoutError as error:
            # aiohttp's own, a subclass of both: the other side has gone silent.
            if not isinstance(error, aiohttp.ServerTimeoutError):
                raise
            raise EngineError("the engine has gone silent", retryable=True, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            what = self._clean(str(error) or type(error).__name__)
            raise EngineError(f"the engine cannot be reached: {what}", retryable=True) from None

    def _headers(self, request_id: str) -> dict[str, str]:
        headers = {"X-Request-Id": request_id}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    def _sampling(self, parameters: Parameters) -> dict[str, Any]:
        fields = parameters.model_dump(exclude_none=True, exclude_defaults=True)
        if "max_tokens" in fields:
            fields[self._args.max_tokens_field] = fields.pop("max_tokens")
        return fields

    def _refused(
        self, status: int, body: bytes, *, retryable: bool | None = None, retry_after: float | None = None
    ) -> EngineError:
        if status in {401, 403}:
            # Its text may quote the key; and the client of this stage cannot do anything about it.
            return EngineError("the engine refused this stage's key", retryable=False, status=502)
        if status == 404:
            return EngineError(
                f"the engine knows no model {self._model!r} or not this operation",
                retryable=False,
                status=502,
            )
        try:
            error = json.loads(body)["error"]
            message = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError):
            message = "no reason given"
        message = self._clean(message)
        if status == 429 or status >= 500:
            passed = status if status in {429, 502, 504} else 503
            return EngineError(
                f"the engine answered {status}: {message}",
                retryable=True if retryable is None else retryable,
                status=passed,
                retry_after=retry_after,
            )
        return EngineError(f"the engine refused the request: {message}", retryable=False, status=400)

    def _broken(self, what: str) -> EngineError:
        return EngineError(f"the engine sent {what}", retryable=False, status=502)

    def _clean(self, text: str) -> str:
        if self._key is not None:
            text = text.replace(self._key, "[redacted key]")
        return redact(text[:_MESSAGE_CHARS], [DETECTORS["key"]], replacement="[redacted {kind}]").text


def _reason(raw: str) -> FinishReason:
    try:
        return FinishReason(raw)
    except ValueError:
        # Other servers have other words for an end that the model chose (eos, eos_token, end_turn).
        return FinishReason.STOP


def _length_of(model: str, body: bytes) -> int | None:
    """`max_model_len` of the model in a list of models, which vLLM gives."""
    try:
        cards = json.loads(body)["data"]
        length = next((card.get("max_model_len") for card in cards if card.get("id") == model), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return length if isinstance(length, int) else None


def build_host(settings: Settings) -> SteadyHost:
    """The host of these settings.

    Raises:
        SettingsError: a bad option, no model name, or a key file that cannot be read.
    """
    args = parse_args(OpenAIArgs, settings.engine_args)
    model = args.model or settings.model_name
    if model is None:
        raise SettingsError((f"{env_vars.MODEL_NAME} is not set; must be the model's name at base-url",))
    key = read_secret("OPENAI_API_KEY")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise SettingsError(("OPENAI_API_KEY = (hidden): must be printable ASCII",))

    async def open_engine(replica: Replica) -> Engine:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=args.silence_seconds
            ),
        )
        engine = OpenAIEngine(session, args, model=model, key=key)
        try:
            with replica.measure(Phase.INIT):
                await engine.check()
        except (StartError, asyncio.CancelledError):
            await engine.close()
            raise
        return engine

    def routes(runtime: StageRuntime, engine: Callable[[], Engine]) -> StageRoutes:
        from functions.engines import openai_api  # noqa: PLC0415 - it knows this module

        def opened() -> OpenAIEngine:
            found = engine()
            assert isinstance(found, OpenAIEngine)
            return found

        names = frozenset({settings.model_name or model})
        stage = settings.stage_name or "generate"
        return StageRoutes(
            embedding_router(engine, model), openai_api.routes(opened, names, runtime.metrics, stage)
        )

    return SteadyHost(settings, open_engine, routes)
