"""Parts of an experiment file that say how replicas rest and where they run."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from warmpool.domain.field_types import Duration, StrictModel, Warmth

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ColdStartSpec(StrictModel):
    """How long a replica takes to start: a constant, a log-normal, or measured values to draw from."""

    seconds: Seconds | None = None
    median: Seconds | None = None
    sigma: Annotated[float, Field(gt=0, le=3)] = 0.25
    """Standard deviation of the logarithm, with `median`."""
    measured: Annotated[tuple[Seconds, ...], Field(strict=False, max_length=100_000)] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.seconds is not None, self.median is not None, bool(self.measured)]
        if sum(given) != 1:
            raise ValueError("must have exactly one of seconds, median and measured")
        return self


class WarmthLevel(StrictModel):
    """A warmth below hot."""

    wake_seconds: Annotated[float, Field(ge=0, le=3600)]
    """From there to hot."""
    price_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """What it costs, as a share of the hot price; None: the price list's."""


class WarmthSpec(StrictModel):
    """How warm a replica rests while it serves no request."""

    resting: Warmth = "hot"
    """Of replicas that no floor wants warmer."""
    idle_seconds: Seconds | None = None
    """After so long without a request it rests again; None: never."""
    asleep: WarmthLevel | None = None
    standby: WarmthLevel | None = None

    @model_validator(mode="after")
    def _described(self) -> Self:
        if self.resting != "hot" and getattr(self, self.resting) is None:
            raise ValueError(f"must have {self.resting}.wakeSeconds, because replicas rest {self.resting}")
        if self.asleep and self.standby and self.asleep.wake_seconds > self.standby.wake_seconds:
            raise ValueError("must not have asleep take longer to wake than standby")
        return self

    def has(self, warmth: Warmth) -> bool:
        """Whether replicas can rest so warm."""
        return warmth == "hot" or getattr(self, warmth) is not None


class NodesSpec(StrictModel):
    """Nodes that are ordered when a replica finds no room, and paid for until they are returned."""

    gpus: Annotated[int, Field(ge=1, le=64)]
    """GPUs of a node."""
    provisioning: ColdStartSpec
    """From the order until replicas can start on it."""
    keep: Duration = timedelta(minutes=10)
    """How long a node without replicas is kept."""
    most: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """The most nodes at once."""
