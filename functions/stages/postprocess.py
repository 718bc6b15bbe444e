"""The stage behind the model: stop sequences, redaction, whitespace, and a check of JSON output.

It works on a whole text, and on a stream segment by segment: the text that it holds back travels in the
reply's `carry` to the next segment's request, so the stage itself keeps nothing. The carry has text that is
not redacted and is meant for the caller that posts the segments, not for the end user.
"""

import asyncio
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator

from functions.contract import FinishReason, Input, StageReply, StageRequest, StopSequence
from functions.dialogue import MAX_INPUT_CHARS
from functions.lifecycle import State
from functions.problems import ProblemError, field_errors
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings
from functions.stage import RequestContext, StageRoutes, StageRuntime, parse_config
from functions.stage_config import StageConfig
from functions.text.filters import FilterState, Whitespace, step
from functions.text.json_answer import parse_answer
from functions.text.json_schema import compile_schema
from functions.timing import Phase

_THREAD_CHARS = 50_000
"""Texts longer than this are filtered in a thread, so that the event loop keeps answering."""


class PostprocessConfig(StageConfig):
    """`PILOTLIGHT_STAGE_CONFIG` of a postprocess stage."""

    stop: Annotated[tuple[StopSequence, ...], Field(max_length=16)] = ()
    """Texts that end the output, besides the request's own."""
    strip_whitespace: bool = True
    """Remove it at both ends."""
    collapse_whitespace: bool = False
    """Remove it at both ends and at the ends of lines, and keep at most one empty line in a row."""
    redact: tuple[Literal["email", "card", "key"], ...] = ("email", "card", "key")
    """Kinds of secrets that are replaced."""
    replacement: Annotated[str, Field(max_length=200)] = "[redacted {kind}]"
    json_output: Literal["off", "flag", "refuse"] = "off"
    """Whether the answer must be JSON: `flag` says in `data` if it is not, `refuse` makes it an error.

    A reasoning block before the answer is no part of it. One code fence is the answer, with or without
    sentences around it."""
    json_schema: dict[str, JsonValue] | None = None
    """JSON Schema that the output must meet; draft by `$schema`, else 2020-12."""

    @property
    def whitespace(self) -> Whitespace:
        """The filter's mode."""
        if self.collapse_whitespace:
            return "tidy"
        return "strip" if self.strip_whitespace else "keep"

    @field_validator("json_schema")
    @classmethod
    def _schema_is_one(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value is not None:
            compile_schema(value)
        return value


class Postprocess:
    """The stage."""

    kind = "postprocess"

    def __init__(self, settings: FunctionSettings, config: PostprocessConfig) -> None:
        self.name = settings.stage_name or self.kind
        self._config = config
        self._schema = compile_schema(config.json_schema) if config.json_schema is not None else None

    async def start(self, replica: ReplicaTracker) -> None:
        """Nothing to load."""
        replica.record(Phase.IMPORT, replica.age)
        replica.to(State.HOT)

    async def invoke(self, request: StageRequest, context: RequestContext) -> StageReply:  # noqa: ARG002 - the protocol
        """The filtered text; `data` has `redactions`, `stopped` and, when checked, `json` or `json_error`."""
        config, segment = self._config, request.segment
        final = segment is None or segment.final
        state = _state(segment.carry if segment else None, keep_text=config.json_output != "off")
        characters = len(request.text) + state.characters
        if characters > MAX_INPUT_CHARS:
            raise ProblemError(
                413,
                f"input and segment.carry have {characters} characters, must be at most {MAX_INPUT_CHARS}",
                title="Text too long",
                extra={"over": characters - MAX_INPUT_CHARS, "unit": "characters"},
            )
        filtered = partial(
            step,
            state,
            request.text,
            final=final,
            stop=(*config.stop, *request.parameters.stop),
            kinds=config.redact,
            replacement=config.replacement,
            whitespace=config.whitespace,
        )
        state, out = await asyncio.to_thread(filtered) if characters > _THREAD_CHARS else filtered()
        data: dict[str, JsonValue] = {"redactions": dict(state.redactions), "stopped": state.stopped}
        calls = () if isinstance(request.input, str) else request.input[-1].tool_calls
        if final and state.text is not None and not calls:
            if len(state.text) > _THREAD_CHARS:
                data |= await asyncio.to_thread(self._check_json, state.text)
            else:
                data |= self._check_json(state.text)
        return StageReply(
            id=request.id,
            stage=self.name,
            output=_with_text(request.input, out),
            data=data,
            finish_reason=FinishReason.STOP if state.stopped else None,
            carry=None if final else state.model_dump(mode="json"),
            metadata=request.metadata,
        )

    def _check_json(self, text: str) -> dict[str, JsonValue]:
        try:
            return {"json": self._parse(text)}
        except ValueError as error:
            if self._config.json_output == "refuse":
                raise ProblemError(
                    422, f"output is not the JSON that was asked for: {error}", title="Output is not JSON"
                ) from None
            return {"json_error": str(error)}

    def _parse(self, text: str) -> JsonValue:
        value = parse_answer(text)
        if self._schema is not None:
            # The message names the place and the rule; jsonschema's own would quote the whole output.
            broken = next(self._schema.iter_errors(value), None)
            if broken is not None:
                raise ValueError(f"{broken.json_path} does not meet {broken.validator!r} of the schema")
        return value

    async def close(self) -> None:
        """Nothing to give back."""

    def routes(self, runtime: StageRuntime) -> StageRoutes:  # noqa: ARG002 - the protocol
        """No routes of its own. A model's answer may be empty, and so may the last segment of a stream."""
        return StageRoutes(accepts_empty_input=True)


def _with_text(value: Input, text: str) -> Input:
    """The text; an answer that calls tools keeps its calls, whose arguments are for the tools."""
    if isinstance(value, str) or not value[-1].tool_calls:
        return text
    return (value[-1].model_copy(update={"content": text or None}),)


def _state(carry: dict[str, JsonValue] | None, *, keep_text: bool) -> FilterState:
    if carry is None:
        return FilterState(text="" if keep_text else None)
    try:
        return FilterState.model_validate(carry)
    except ValidationError as error:
        errors = [
            {**entry, "field": f"segment.carry.{entry['field']}", "value": "(hidden)"}
            for entry in field_errors(error.errors(include_url=False, include_context=False))
        ]
        raise ProblemError(
            422,
            "segment.carry is not the carry of a reply of this stage",
            title="Invalid request",
            errors=errors,
        ) from None


def build(settings: FunctionSettings) -> Postprocess:
    """The stage of these settings.

    Raises:
        SettingsError: a bad stage config.
    """
    return Postprocess(settings, parse_config(PostprocessConfig, settings))
