"""The decisions of an agent's loop (pure)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from functions.contract import Input, Parameters, StageReply, Usage
from functions.dialogue import Message, NamedTool, Role, Tool, ToolCall
from functions.orchestration.agent_loop.config import Bounds, LoopConfig
from functions.orchestration.answers import added

_BETWEEN = "\n\n"
"""Between what the model says in one turn and in the next."""


class Bound(StrEnum):
    """What has ended a loop before the model's answer."""

    STEPS = "steps"
    TOKENS = "tokens"
    SECONDS = "seconds"
    DOLLARS = "dollars"


@dataclass(frozen=True, slots=True)
class LoopState:
    """A conversation, and what it has cost.

    Attributes:
        messages: with what the model and the tools said.
        turns: of the model.
        said: what the model said to the user.
        usage: of all turns; None before the first.
    """

    messages: tuple[Message, ...]
    turns: int = 0
    said: str = ""
    usage: Usage | None = None

    def after_turn(self, reply: StageReply) -> LoopState:
        """With one more turn of the model."""
        text = reply.text
        message = Message(role=Role.ASSISTANT, content=text or None, tool_calls=reply.tool_calls)
        return LoopState(
            (*self.messages, message),
            self.turns + 1,
            self.said + between(self.said, text) + text,
            added(self.usage, reply.usage),
        )

    def with_results(self, calls: Sequence[ToolCall], texts: Sequence[str]) -> LoopState:
        """With what tools answered to the calls of the last turn."""
        results = tuple(
            Message(role=Role.TOOL, tool_call_id=call.id, content=text)
            for call, text in zip(calls, texts, strict=True)
        )
        return replace(self, messages=(*self.messages, *results))


def begin(config: LoopConfig, value: Input) -> LoopState:
    """The state before the first turn: the agent's own instructions, then the conversation."""
    messages = (Message(role=Role.USER, content=value),) if isinstance(value, str) else value
    if config.system is not None:
        messages = (Message(role=Role.SYSTEM, content=config.system), *messages)
    return LoopState(messages)


def between(said: str, text: str) -> str:
    """What parts the text of a turn from what was said before."""
    return _BETWEEN if said and text else ""


def bound_reached(bounds: Bounds, state: LoopState, *, seconds: float) -> Bound | None:
    """The bound that forbids another turn of the model.

    Args:
        bounds: of the agent.
        state: after the turns so far.
        seconds: since the loop began.
    """
    usage = state.usage or Usage()
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    if state.turns >= bounds.steps:
        return Bound.STEPS
    if bounds.tokens is not None and prompt + completion >= bounds.tokens:
        return Bound.TOKENS
    if bounds.seconds is not None and seconds >= bounds.seconds:
        return Bound.SECONDS
    if bounds.dollars is not None and bounds.prices is not None:
        spent = (prompt * bounds.prices.prompt + completion * bounds.prices.completion) / 1e6
        if spent >= bounds.dollars:
            return Bound.DOLLARS
    return None


def turn_parameters(
    config: LoopConfig, asked: Parameters, own: Sequence[Tool], state: LoopState
) -> Parameters:
    """How the model is asked in the next turn: with the agent's tools before the client's.

    A client's `tool_choice`, and the agent's `required`, are for the first turn: the model could never answer
    otherwise.
    """
    tools = (*own, *asked.tools)
    choice = asked.tool_choice
    if choice is None and config.tool_choice == "required":
        choice = "required"
    if state.turns and (choice == "required" or isinstance(choice, NamedTool)):
        choice = "auto"
    most = asked.max_tokens
    if config.bounds.tokens is not None:
        usage = state.usage or Usage()
        left = config.bounds.tokens - (usage.prompt_tokens or 0) - (usage.completion_tokens or 0)
        most = max(1, left if most is None else min(most, left))
    update = {"tools": tools, "tool_choice": choice if tools else None, "max_tokens": most}
    return asked.model_copy(update=update)


def foreign_calls(
    calls: Sequence[ToolCall], asked: Sequence[Tool], own: Collection[str]
) -> tuple[ToolCall, ...]:
    """The calls of tools that the client has, which it makes by itself."""
    theirs = {tool.function.name for tool in asked} - set(own)
    return tuple(call for call in calls if call.function.name in theirs)


def explanation(bound: Bound, bounds: Bounds) -> str:
    """For the user, where the model has said nothing."""
    limit = {
        Bound.STEPS: f"{bounds.steps} steps",
        Bound.TOKENS: f"{bounds.tokens} tokens",
        Bound.SECONDS: f"{bounds.seconds or 0:g} seconds",
        Bound.DOLLARS: f"{bounds.dollars or 0:g} dollars",
    }[bound]
    return f"The agent stopped at its limit of {limit} before it had an answer."
