"""One request of a replay, in the words of its URL, and what its user saw of the answer.

Three dialects: `chat` and `completions` of the OpenAI API, and `invoke` of the stages; a URL with any other
path gets a plain GET.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from functions.timing import parse_server_timing
from transport.sse import EventParser, ServerSentEvent

_LONGEST_DETAIL: Final = 300
_TIMING: Final = "server-timing "
# Short words that most tokenizers know as one token each.
_WORDS: Final = [
    *(
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "that",
        "for",
        "it",
        "as",
        "was",
        "with",
        "be",
        "by",
        "on",
        "not",
    ),
    *("he", "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one"),
    *("you", "were", "her", "all", "she", "there", "would", "their", "we", "him", "been", "has", "when"),
    *("who", "will", "more", "no", "if", "out", "so", "said", "what", "up", "its", "about", "into", "than"),
]

_NO_PROGRESS = "X-Pilotlight-Progress"


class Dialect(StrEnum):
    """How the function is asked."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    INVOKE = "invoke"
    GET = "get"


def dialect_of(url: str) -> Dialect:
    """The dialect that a URL's path names."""
    path = urlsplit(url).path.rstrip("/")
    if path.endswith("/chat/completions"):
        return Dialect.CHAT
    if path.endswith("/completions"):
        return Dialect.COMPLETIONS
    return Dialect.INVOKE if path.endswith("/invoke") else Dialect.GET


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; seconds count from the sending.

    Attributes:
        ttft_s: to the first token, or byte of a body without tokens.
        e2e_s: to the end; None when it failed.
        itl_s: gaps between pieces of output.
        warmth: of the replica of the model, as it found the request; None: not told.
        queue_s: held by the activator before the model's replica; None: not told.
        phases: of the model's cold start, s.
        input_tokens: as counted by the server.
        output_tokens: as counted by the server.
        status: of the response; None without one.
        error: None for a good answer.
        unreachable: nothing was connected to.
    """

    ttft_s: float | None = None
    e2e_s: float | None = None
    itl_s: tuple[float, ...] = ()
    warmth: str | None = None
    queue_s: float | None = None
    phases: dict[str, float] = field(default_factory=dict)
    input_tokens: int | None = None
    output_tokens: int | None = None
    status: int | None = None
    error: str | None = None
    unreachable: bool = False


class Prompts:
    """Prompts of about so many tokens, each different from its first word on, so that no prefix is cached."""

    def __init__(self, seed: int) -> None:
        """Begin with one token a word; `learn` corrects that."""
        self._random = random.Random(seed)  # noqa: S311 - words, no secrets
        self._tokens_per_word = 1.0

    def make(self, tokens: int) -> str:
        """A prompt."""
        count = max(1, round(tokens / self._tokens_per_word))
        return " ".join(self._random.choices(_WORDS, k=count))

    def learn(self, prompt: str, tokens: int) -> None:
        """The server counted so many tokens in this prompt."""
        share = tokens / (prompt.count(" ") + 1)
        self._tokens_per_word = min(8.0, max(0.25, share))


@dataclass(frozen=True, slots=True)
class Exchange:
    """How each request is put.

    Attributes:
        url: of the function.
        dialect: its language.
        model: named in requests to an OpenAI API.
        stage: whose timing counts in a chain's reply; None: the slowest start.
        exact: ask for exactly as many tokens as the trace has, where the server can.
        timeout_s: for the whole answer.
        headers: of every request, a key for example.
    """

    url: str
    dialect: Dialect
    model: str | None = None
    stage: str | None = None
    exact: bool = False
    timeout_s: float = 300.0
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, session: aiohttp.ClientSession, prompt: str, max_tokens: int) -> Answer:
        """Send one request and read its answer; failures are part of the answer."""
        reading = _Reading(self)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        method = "GET" if self.dialect is Dialect.GET else "POST"
        body = self._body(prompt, max_tokens)
        try:
            async with session.request(
                # The answer's own head has the timings; a stream that waits for a start would begin without.
                method,
                self.url,
                json=body,
                headers={_NO_PROGRESS: "off", **self.headers},
                timeout=timeout,
            ) as response:
                reading.begin(response)
                if response.status >= 400:
                    return reading.failed(_problem(response.status, await response.text()))
                async for piece in response.content.iter_any():
                    reading.take(piece)
        except TimeoutError:
            return reading.failed(f"no answer within {self.timeout_s:g} s")
        except aiohttp.ClientConnectorError as error:
            return reading.failed(str(error), unreachable=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return reading.failed(f"{type(error).__name__}: {error}")
        return reading.end()

    def _body(self, prompt: str, max_tokens: int) -> dict[str, Any] | None:
        if self.dialect is Dialect.GET:
            return None
        extra: dict[str, Any] = {"ignore_eos": True} if self.exact else {}
        if self.dialect is Dialect.INVOKE:
            parameters = {"max_tokens": max_tokens, "temperature": 0.0} | extra
            return {"input": prompt, "parameters": parameters, "stream": True}
        asked: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 0.0, "stream": True}
        asked |= {"stream_options": {"include_usage": True}, **extra}
        if self.model is not None:
            asked["model"] = self.model
        if self.dialect is Dialect.CHAT:
            return asked | {"messages": [{"role": "user", "content": prompt}]}
        return asked | {"prompt": prompt}


class _Reading:
    """An answer while it comes."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sent = perf_counter()
        self._parser = EventParser(with_comments=True)
        self._times: list[float] = []
        """Instants of pieces of output."""
        self._status: int | None = None
        self._streams = False
        self._whole = bytearray()
        self._warmth: str | None = None
        self._queue_s: float | None = None
        self._phases: dict[str, float] = {}
        self._usage: dict[str, Any] = {}
        self._error: str | None = None
        self._complete = False

    def begin(self, response: aiohttp.ClientResponse) -> None:
        self._status = response.status
        self._streams = response.content_type == "text/event-stream"
        self._server_timing(", ".join(response.headers.getall("Server-Timing", ())))

    def _server_timing(self, value: str) -> None:
        for entry in parse_server_timing(value):
            if entry.name == "warmth":
                self._warmth = entry.description
            elif entry.name == "queue" and entry.seconds is not None:
                self._queue_s = (self._queue_s or 0.0) + entry.seconds
            elif entry.seconds is not None and entry.name != "total":
                self._phases[entry.name] = entry.seconds

    def take(self, piece: bytes) -> None:
        now = perf_counter()
        if not self._streams:
            self._times.append(now)
            if self._exchange.dialect is not Dialect.GET:
                self._whole += piece
            return
        for event in self._parser.feed(piece):
            self._event(event, now)

    def _event(self, event: ServerSentEvent, now: float) -> None:
        if not event.data:
            # A stream that was held has sent its head before there were times to tell.
            comment = event.raw.decode().strip().removeprefix(":").strip()
            if comment.startswith(_TIMING):
                self._server_timing(comment.removeprefix(_TIMING))
            return
        if event.data == "[DONE]":
            self._complete = True
            return
        data = json.loads(event.data)
        if not isinstance(data, dict):
            raise ValueError(f"event {event.name!r} is no JSON object")  # noqa: TRY004 - what came is wrong
        if self._exchange.dialect is Dialect.INVOKE:
            self._stage_event(event.name, data, now)
        elif "error" in data:
            self._error = _problem(self._status or 0, event.data)
        else:
            if any(_text_of(choice) for choice in data.get("choices") or ()):
                self._times.append(now)
            self._usage = data.get("usage") or self._usage

    def _stage_event(self, name: str, data: dict[str, Any], now: float) -> None:
        if name == "delta":
            self._times.append(now)
        elif name == "error":
            self._status = int(data.get("status", 500))
            self._error = _problem(self._status, json.dumps(data))
        elif name == "reply":
            self._reply(data)
            if not self._times:
                self._times.append(now)

    def _reply(self, reply: dict[str, Any]) -> None:
        self._complete = True
        self._usage = reply.get("usage") or {}
        timings = [timing for timing in reply.get("timings") or () if timing.get("warmth")]
        if not timings:
            return
        mine = [timing for timing in timings if timing.get("stage") == self._exchange.stage]
        # Of a chain without a named stage: the one whose start took longest stands for the chain.
        timing = mine[0] if mine else max(timings, key=_start_seconds)
        phases = {key: float(value) for key, value in (timing.get("phases") or {}).items()}
        self._warmth = timing["warmth"]
        # A chain's own queue is that of its entry; a stage behind it has the activator's in its phases.
        if len(reply["timings"]) > 1 or self._queue_s is None:
            self._queue_s = phases.get("queue", self._queue_s)
        self._phases = {name: seconds for name, seconds in phases.items() if name != "queue"}

    def failed(self, error: str, *, unreachable: bool = False) -> Answer:
        return Answer(status=self._status, error=error[:_LONGEST_DETAIL], unreachable=unreachable)

    def end(self) -> Answer:
        now = perf_counter()
        if self._error is None and self._streams and not self._complete:
            self._error = "the stream ended without its last event"
        if self._error is not None:
            return self.failed(self._error)
        if not self._streams and self._whole:
            try:
                whole = json.loads(self._whole)
            except ValueError:
                return self.failed("the answer is not JSON")
            if self._exchange.dialect is Dialect.INVOKE:
                self._reply(whole)
            else:
                self._usage = whole.get("usage") or {}
        first = self._times[0] if self._times else now
        gaps = zip(self._times, self._times[1:], strict=False) if self._streams else ()
        return Answer(
            ttft_s=first - self._sent,
            e2e_s=now - self._sent,
            itl_s=tuple(later - earlier for earlier, later in gaps),
            warmth=self._warmth,
            queue_s=self._queue_s,
            phases={name: value for name, value in self._phases.items() if name != "prefill"},
            input_tokens=_count(self._usage, "prompt_tokens", "input_tokens"),
            output_tokens=_count(self._usage, "completion_tokens", "output_tokens"),
            status=self._status,
        )


def _start_seconds(timing: dict[str, Any]) -> float:
    return 0.0 if timing["warmth"] == "hot" else float(timing.get("seconds") or 0.0)


def _text_of(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or delta.get("content") or delta.get("reasoning_content"))


def _count(usage: dict[str, Any], *names: str) -> int | None:
    found: Iterator[int] = (usage[name] for name in names if isinstance(usage.get(name), int))
    return next(found, None)


def _problem(status: int, body: str) -> str:
    try:
        problem = json.loads(body)
        problem = problem.get("error", problem)
        title = problem.get("title") or problem.get("message") or ""
        detail = problem.get("detail") or ""
    except (ValueError, AttributeError):
        return f"{status}: {body}".strip(": \n")
    return f"{status} {title}: {detail}".strip(": ")
