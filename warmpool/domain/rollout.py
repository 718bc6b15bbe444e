"""The `rollout` of a pool's spec: how a new Revision gets the target's traffic, and what would stop it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from warmpool.domain.field_types import Duration, Margin, Replicas, StrictModel

MAX_STEPS: Final = 20
MAX_PROMPTS: Final = 50
_SHORTEST: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=7)
_LOWEST_CONFIDENCE: Final = 0.5
_HIGHEST_CONFIDENCE: Final = 0.9999

Text = Annotated[str, Field(min_length=1, max_length=4096)]


class RolloutMargins(StrictModel):
    """By how much the new Revision may be worse than the running one; off: it is not compared.

    Each is a difference of two shares of answers, in percentage points.
    """

    errors: Margin = 0.02
    """Answers with a status of 500 or above."""
    refusals: Margin = 0.05
    """Answers that decline (a content filter, `message.refusal`)."""
    ttft: Margin = 0.05
    """Answers whose first token comes later than the running Revision's p95 and the tolerance allow."""
    itl: Margin = 0.05
    """The same for the gaps between tokens."""
    tokens: Margin = 0.2
    """Answers longer than the running Revision's median; more and fewer both count."""
    quality: Margin = 0.1
    """Prompts of the quality check whose answer is not as expected."""


class QualityPrompt(StrictModel):
    """One prompt of the quality check, and what its answer has to be like."""

    prompt: Text
    contains: Annotated[tuple[Text, ...], Field(strict=False, max_length=20)] = ()
    """Each has to be in the answer, whatever the case of its letters."""
    excludes: Annotated[tuple[Text, ...], Field(strict=False, max_length=20)] = ()
    """None may be in the answer."""
    json_object: bool = False
    """Whether the answer has to be a JSON object."""


class QualityCheck(StrictModel):
    """Prompts that both Revisions are asked before the new one gets its first share."""

    prompts: Annotated[tuple[QualityPrompt, ...], Field(strict=False, min_length=1, max_length=MAX_PROMPTS)]
    judge: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)] | None = None
    """URL that gets `{"prompt", "answer"}` and answers `{"pass": true | false}`; beside the properties."""
    path: Annotated[str, Field(pattern=r"^/[^\s]*$", max_length=256)] = "/invoke"
    """Where a Revision takes `{"input": PROMPT}`."""


class Rollout(StrictModel):
    """How a new Revision gets the traffic."""

    steps: Annotated[tuple[int, ...], Field(strict=False, min_length=1, max_length=MAX_STEPS)] = (
        5,
        25,
        50,
        100,
    )
    """Percent of the traffic, rising, the last one 100."""
    pause: Duration = timedelta(minutes=2)
    """The least time at each step."""
    interval: Duration = timedelta(seconds=30)
    """Time between two analyses; the first ones of a step are earlier."""
    confidence: Annotated[float, Field(strict=False, ge=_LOWEST_CONFIDENCE, le=_HIGHEST_CONFIDENCE)] = 0.95
    """Of each step: that a step passed is within its margins, and that a Revision rolled back is worse."""
    min_answers: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Answers of the new Revision below which no step passes."""
    latency_tolerance: Annotated[float, Field(strict=False, ge=0, le=10)] = 0.25
    """How much slower than the running Revision's p95 does not count as slow: 0.25 is a quarter."""
    source: Literal["replicas", "prometheus"] = "replicas"
    """Where the answers are counted: on the replicas' own pages, or by the controller's Prometheus."""
    surge: Replicas = 0
    """Replicas above the floor that may be warm for a step to be prepared."""
    margins: RolloutMargins = RolloutMargins()
    quality: QualityCheck | None = None

    @field_validator("steps")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        rising = all(before < after for before, after in zip((0, *value), value, strict=False))
        if not rising or value[-1] != 100:
            raise ValueError(
                "must be whole percentages that rise from at least 1 to 100, e.g. [5, 25, 50, 100]"
            )
        return value

    @field_validator("pause", "interval")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if not _SHORTEST <= value <= _LONGEST:
            raise ValueError('must be from "1s" to "7d"')
        return value

    @model_validator(mode="after")
    def _compares(self) -> Self:
        if self.margins.errors is None and self.margins.ttft is None and len(self.steps) > 1:
            raise ValueError("must have margins.errors or margins.ttft: without both nothing is judged")
        return self

    def next_look(self, elapsed: timedelta) -> timedelta:
        """How long after one look the next one is, so long after the step began.

        The first ones are early, at about one, two, four seconds and so on: what is very bad is seen at once.
        """
        return min(self.interval, max(_SHORTEST, elapsed))

    def after(self, percent: int) -> int:
        """The step that follows `percent`."""
        return next((step for step in self.steps if step > percent), 100)
