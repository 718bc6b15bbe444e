"""The first stage before the model: what reaches the model is valid, normalised, bounded, and fits.

Tokens are counted with the model's own tokenizer, without importing an engine. A request whose prompt and
answer together do not fit the model is refused here, with the number of tokens over, before it costs a GPU
anything. A model without a `tokenizer.json` is served as well; then only characters are counted.
"""

import asyncio
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from functions.contract import Input, StageReply, StageRequest, Usage
from functions.dialogue import Message, tools_text
from functions.lifecycle import State
from functions.problems import ProblemError
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings
from functions.stage import RequestContext, StageRoutes, StageRuntime, StartError, parse_config
from functions.stage_config import StageConfig
from functions.text.normalisation import normalise
from functions.text.special_tokens import SpecialTokens
from functions.timing import Phase
from knative import env_vars

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer*", "tekken.json", "config.json", "params.json")
"""The files of a model that this stage needs: no weights. `tekken.json` and `params.json` are Mistral's."""

_THREAD_CHARS = 20_000
"""Texts longer than this are worked on in a thread, so that the event loop keeps answering."""

MAX_SHRINKAGE = 4
"""How many times longer than `maxCharacters` an input may be before it is normalised.

No canonical composition makes one character of more than four."""


class IngestConfig(StageConfig):
    """`PILOTLIGHT_STAGE_CONFIG` of an ingest stage."""

    max_characters: Annotated[int, Field(ge=1)] = 100_000
    """Characters of one request, all messages together, after normalising; four times as many before."""
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Tokens of prompt and answer together; by default what the engine or the model's config.json says."""
    default_max_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens counted for the answer where the request names none (vLLM's own default)."""
    special_tokens: Literal["text", "refuse", "keep"] = "text"
    """What becomes of the tokenizer's special tokens (`<|im_start|>`, `</s>`) in a message of a conversation.

    `text`: the model gets them as ordinary text. `keep`: they act, so that a message can pretend to be
    another role's. `refuse`: 422. In a plain text, which is completed as it is, they always act.
    """
    message_overhead: Annotated[int, Field(ge=0)] = 8
    """Tokens added per message for the chat template, an upper bound for common templates."""


def normalise_input(value: Input) -> Input:
    """`normalise` for a text or for every message."""
    if isinstance(value, str):
        return normalise(value)
    return tuple(message.changed(normalise) for message in value)


def texts(value: Input) -> tuple[str, ...]:
    """The texts of an input, in order; of a conversation also those of calls of tools."""
    if isinstance(value, str):
        return (value,)
    return tuple(text for message in value for text in message.texts)


class Ingest:
    """The stage.

    Args:
        settings: names, and where the model is.
        config: of the stage.
    """

    kind = "ingest"

    def __init__(self, settings: FunctionSettings, config: IngestConfig) -> None:
        self.name = settings.stage_name or self.kind
        self._settings = settings
        self._config = config
        self._tokenizer: Tokenizer | None = None
        self._special = SpecialTokens(frozenset())
        self._text_lengths: dict[str, int] = {}
        """Tokens of each special token where it is text."""
        self._max_model_len = config.max_model_len

    async def start(self, replica: ReplicaTracker) -> None:
        """Fetch and load the tokenizer; without a model, only characters are counted."""
        replica.to(State.LOADING)
        replica.record(Phase.IMPORT, replica.age)
        if self._settings.model_uri is not None:
            with replica.measure(Phase.WEIGHTS):
                model = await fetch_tokenizer(self._settings)
            with replica.measure(Phase.INIT):
                self._tokenizer = await asyncio.to_thread(load_tokenizer, model)
                if self._tokenizer is None:
                    log.warning(
                        "the model has no tokenizer.json: only characters are counted",
                        extra={"model": self._settings.model_uri},
                    )
                else:
                    self._text_lengths = special_token_lengths(self._tokenizer)
                    self._special = SpecialTokens(frozenset(self._text_lengths))
                if self._max_model_len is None:
                    self._max_model_len = self._served_length() or read_model_length(model)
        replica.to(State.HOT)

    async def invoke(self, request: StageRequest, context: RequestContext) -> StageReply:  # noqa: ARG002 - the protocol
        """The normalised input, with its token count in `data` and `usage`."""
        given = sum(map(len, texts(request.input)))
        self._check_characters(given, MAX_SHRINKAGE, "before normalising")
        if given > _THREAD_CHARS:
            value = await asyncio.to_thread(normalise_input, request.input)
        else:
            value = normalise_input(request.input)
        chars = sum(map(len, texts(value)))
        self._check_characters(chars)
        if not any(text.strip() for text in texts(value)):
            raise ProblemError(422, "input is empty after normalising, must hold a text", title="Empty input")
        if not isinstance(value, str):
            value = self._with_special_tokens(value)
        tokens = await self._count(value, tools_text(request.parameters.tools))
        if tokens is not None:
            self._check_fits(tokens, request)
        return StageReply(
            id=request.id,
            stage=self.name,
            output=value,
            data={
                "characters": chars,
                "prompt_tokens": tokens,
                "counted": "characters" if tokens is None else "tokens",
                "changed": texts(value) != texts(request.input),
            },
            usage=Usage(prompt_tokens=tokens),
            metadata=request.metadata,
        )

    async def close(self) -> None:
        """Nothing to give back."""

    def routes(self, runtime: StageRuntime) -> StageRoutes:  # noqa: ARG002 - the protocol
        """No routes of its own."""
        return StageRoutes()

    def _check_characters(self, chars: int, factor: int = 1, when: str = "after normalising") -> None:
        limit = factor * self._config.max_characters
        if chars > limit:
            raise ProblemError(
                413,
                f"input has {chars} characters {when}, at most {limit} are allowed: {chars - limit} over",
                title="Input too long",
                extra={"over": chars - limit, "unit": "characters"},
            )

    async def _count(self, value: Input, tools: str) -> int | None:
        """Tokens of the prompt; with tools nearly, since each chat template lays them out in its own way."""
        if self._tokenizer is None:
            return None
        parts = (*texts(value), tools) if tools else texts(value)
        if sum(map(len, parts)) > _THREAD_CHARS:
            counts = await asyncio.to_thread(self._lengths, parts)
        else:
            counts = self._lengths(parts)
        if isinstance(value, str):
            return sum(counts)
        # Each counts as one token so far.
        as_text = [
            self._text_lengths[token] - 1
            for message in value
            if message.special_tokens is None
            for text in message.texts
            for token in self._special.all_in(text)
        ]
        return sum(counts) + sum(as_text) + self._config.message_overhead * len(value)

    def _lengths(self, parts: tuple[str, ...]) -> list[int]:
        assert self._tokenizer is not None
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(list(parts))]

    def _with_special_tokens(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages, marked where their special tokens act.

        Raises:
            ProblemError: a message has one, and they are refused.
        """
        if self._config.special_tokens == "keep":
            return tuple(message.model_copy(update={"special_tokens": "keep"}) for message in messages)
        if self._config.special_tokens == "refuse":
            for at, message in enumerate(messages):
                found = next(filter(None, map(self._special.first_in, message.texts)), None)
                if found is not None:
                    raise ProblemError(
                        422,
                        f"input[{at}].content has the model's special token {found!r}, must be without "
                        "(specialTokens of the stage is refuse)",
                        title="Special token in a message",
                    )
        # Whether they act is for the stage to say, not for its client.
        return tuple(message.model_copy(update={"special_tokens": None}) for message in messages)

    def _check_fits(self, tokens: int, request: StageRequest) -> None:
        if self._max_model_len is None:
            return
        answer = request.parameters.max_tokens or self._config.default_max_tokens
        over = tokens + answer - self._max_model_len
        if over > 0:
            raise ProblemError(
                413,
                f"{tokens} prompt tokens and max_tokens = {answer} are {over} over the model's "
                f"{self._max_model_len}; shorten the input or lower max_tokens",
                title="Does not fit the model",
                extra={"over": over, "unit": "tokens", "prompt_tokens": tokens, "limit": self._max_model_len},
            )

    def _served_length(self) -> int | None:
        value = self._settings.engine_args.get("max-model-len")
        return value if isinstance(value, int) and value > 0 else None


async def fetch_tokenizer(settings: FunctionSettings) -> Path:
    """The directory with the model's tokenizer and config.

    Raises:
        StartError: the model cannot be read.
    """
    from weights import WeightsError, pull  # noqa: PLC0415 - after the port is open

    assert settings.model_uri is not None
    try:
        pulled = await pull(
            settings.model_uri,
            cache_dir=settings.cache_dir,
            patterns=TOKENIZER_FILES,
            quota_bytes=settings.cache_quota,
        )
    except WeightsError as error:
        raise StartError(f"{env_vars.MODEL_URI} = {settings.model_uri}: {error}") from error
    return pulled.path


def load_tokenizer(model: Path) -> "Tokenizer | None":
    """The model's own tokenizer; None without a tokenizer.json.

    Raises:
        StartError: a tokenizer.json that does not load.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 - after the port is open

    path = model / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a bad file
        raise StartError(f"{path} does not load: {error}") from error


def special_token_lengths(tokenizer: "Tokenizer") -> dict[str, int]:
    """Tokens of each special token of the tokenizer where it is ordinary text."""
    contents = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    tokenizer.encode_special_tokens = True
    try:
        return {text: len(tokenizer.encode(text, add_special_tokens=False).ids) for text in contents}
    finally:
        tokenizer.encode_special_tokens = False


def read_model_length(model: Path) -> int | None:
    """`max_position_embeddings` of the model's config.json; None where it does not say."""
    try:
        config: Any = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    value = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return value if isinstance(value, int) and value > 0 else None


def build(settings: FunctionSettings) -> Ingest:
    """The stage of these settings.

    Raises:
        SettingsError: a bad stage config.
    """
    return Ingest(settings, parse_config(IngestConfig, settings))
