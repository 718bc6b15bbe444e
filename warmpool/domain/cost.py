"""What GPUs cost: a list of prices, each with its date and source, and the price of a replica."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from warmpool.domain.field_types import WARMTHS, Money, StrictModel, Warmth
from warmpool.domain.floor import Floor
from warmpool.domain.spec_errors import SpecError, describe_errors

_HOUR = 3600


class GpuPrice(StrictModel):
    """The price of one GPU."""

    hourly: Annotated[Money, Field(ge=0)]
    """For one hour of one GPU, in the list's currency."""
    date: Annotated[dt.date, Field(strict=False)]
    """When the price was looked up."""
    source: Annotated[str, Field(min_length=1)]
    """Where it was looked up: provider, machine, region, kind of price."""


class PriceList(StrictModel):
    """GPU prices in one currency."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    default: str | None = None
    """The GPU of a Service that names none; None: such a Service has no price."""
    cold_start_penalty: Annotated[Money, Field(ge=0)] = Decimal(0)
    """What it is worth to save one user one cold start."""
    warmth: dict[Warmth, Annotated[Money, Field(ge=0)]] = Field(default_factory=dict)
    """The share of the price that a replica of this warmth costs; 1 where it is left out."""
    gpus: dict[str, GpuPrice]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default is not None and self.default not in self.gpus:
            raise ValueError(
                f"must have a default among its gpus ({', '.join(self.gpus)}), not {self.default!r}"
            )
        shares = [self.warmth.get(warmth, Decimal(1)) for warmth in WARMTHS]
        if shares != sorted(shares, reverse=True):
            raise ValueError("must not price a less warm replica above a warmer one")
        return self

    @classmethod
    def parse(cls, content: object) -> Self:
        """Validate the content of a YAML or JSON file.

        Raises:
            SpecError: with one line per mistake.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise SpecError(describe_errors(error, "prices")) from None

    def of(self, gpu: str | None) -> GpuPrice | None:
        """The price of a GPU (None: of the default GPU); None when the list does not have it."""
        name = self.default if gpu is None else _normal(gpu)
        if name is None:
            return None
        return next((price for key, price in self.gpus.items() if _normal(key) == _normal(name)), None)

    def replica(self, gpu: str | None, gpus: int) -> ReplicaPrice | None:
        """The price of a replica that holds `gpus` GPUs; without GPUs it is free, whatever the list says."""
        if gpus == 0:
            return ReplicaPrice(Decimal(0), self.currency, self.cold_start_penalty)
        price = self.of(gpu)
        if price is None:
            return None
        shares = {warmth: self.warmth.get(warmth, Decimal(1)) for warmth in WARMTHS}
        return ReplicaPrice(price.hourly * gpus / _HOUR, self.currency, self.cold_start_penalty, shares)


@dataclass(frozen=True, slots=True)
class ReplicaPrice:
    """What one replica of a Service costs."""

    per_second: Decimal
    """While it is hot."""
    currency: str = "USD"
    cold_start_penalty: Decimal = Decimal(0)
    shares: Mapping[Warmth, Decimal] | None = None

    def share(self, warmth: Warmth) -> Decimal:
        """The share of the hot price that a replica of this warmth costs."""
        return self.shares[warmth] if self.shares else Decimal(1)

    def rate(self, floor: Floor) -> Decimal:
        """What holding a floor costs per second."""
        parts = (count * self.share(warmth) for warmth, count in floor.by_warmth().items())
        return self.per_second * sum(parts, Decimal(0))


def _normal(gpu: str) -> str:
    """`NVIDIA-L4` (the node label) and `nvidia_l4` are `nvidia-l4`."""
    return gpu.strip().lower().replace("_", "-").replace(" ", "-")
