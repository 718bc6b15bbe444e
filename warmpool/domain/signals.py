"""Signals: PromQL queries with a target, which a pool tracks as a HorizontalPodAutoscaler does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from warmpool.domain.field_types import Duration, Name, Share, StrictModel

MAX_SIGNALS: Final = 8
"""Signals of one pool: each is a query of Prometheus in every pass."""
LONGEST_QUERY: Final = 1024
LONGEST_WINDOW: Final = timedelta(hours=1)
"""The longest stabilisation window, as in a HorizontalPodAutoscaler."""

Amount = Annotated[float, Field(strict=False, ge=1e-6, le=1e12)]


class SignalTarget(StrictModel):
    """What the signal should be, by one of a HorizontalPodAutoscaler's two types of target."""

    value: Amount | None = None
    """Of the result itself, which is an average or a maximum over the replicas."""
    average_value: Amount | None = None
    """Of the result divided by the replicas: the result is a total."""

    @model_validator(mode="after")
    def _one_type(self) -> Self:
        if (self.value is None) == (self.average_value is None):
            raise ValueError(
                "must have exactly one of value (the query gives an average over the replicas) and "
                "averageValue (it gives a total)"
            )
        return self


class Signal(StrictModel):
    """A query and its target."""

    name: Name
    query: Annotated[str, Field(min_length=1, max_length=LONGEST_QUERY)]
    """PromQL that results in one number."""
    target: SignalTarget
    tolerance: Share = 0.1
    """Deviations from the target up to this share change nothing."""
    stabilization_window: Duration = timedelta(minutes=5)
    """The floor falls to the highest number that was asked for within this time."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.query.strip():
            raise ValueError("must have a query in PromQL")
        if not timedelta(0) <= self.stabilization_window <= LONGEST_WINDOW:
            raise ValueError('must have a stabilizationWindow from "0s" to "1h"')
        return self


@dataclass(frozen=True, slots=True)
class SignalReading:
    """The result of one query."""

    value: float | None
    """None: it could not be read."""
    problem: str = ""
    """Why not, in one sentence."""
