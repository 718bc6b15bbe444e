"""What the author of a stage or a tool handles: the call, its settings, a reply, an error for the model."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_jsonable_python

from functions.contract import FinishReason, Input, Usage
from functions.problems import ProblemError
from functions.stage_config import StageConfig


class Config(StageConfig):
    """Base of a stage's or a tool's own settings: what the agent file has under `config`.

    A parameter annotated with a class derived from it is given the checked settings. Names are written as in
    the agent file (`maxResults` for `max_results`); unknown ones are refused when the replica starts.
    """


@dataclass(frozen=True, slots=True)
class Call:
    """What travels with one request besides its content. A parameter annotated with it is given it.

    Attributes:
        id: `X-Request-Id`, the same for the whole chain.
        idempotency_key: `Idempotency-Key`: the same for every attempt at one step of a run. What must not
            happen twice is recorded under it. None: the caller gave none.
        caller: name of the key or token by which the user called, also behind other stages; empty without
            one.
        team: of that key.
        deadline: instant on `time.monotonic` after which nobody waits for the answer; None for never.
        headers: for calls that are made on behalf of this request: id, trace, seconds left.
    """

    id: str = "local"
    idempotency_key: str | None = None
    caller: str = ""
    team: str = ""
    deadline: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def seconds_left(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(frozen=True, slots=True)
class Reply:
    """What a stage answers, where a text alone does not say it.

    Attributes:
        output: text or messages for the stage behind; None: the request's own input goes on unchanged.
        data: JSON, or a pydantic model, for `stages.NAME.data` of conditions and for the caller.
        finish_reason: why the output ended; None: that of the stage before stays.
        usage: tokens that the stage has cost.
    """

    output: Input | None = None
    data: Any = None
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)

    def json_data(self) -> Any:
        """`data` as JSON values."""
        return to_jsonable_python(self.data)


class ToolError(ProblemError):
    """A tool cannot do what it was asked for, in words for the model, which may then do better.

    Args:
        message: what is wrong and what would be right: "no customer 12; list_customers has the numbers".
        retryable: the same call may succeed later.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(503 if retryable else 422, message, title="Tool error", retryable=retryable)
