"""A token bucket (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from triggers.spec.trigger import Rate


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Tokens left at an instant; a number below zero is a debt that time pays."""

    rate: Rate
    tokens: float
    at: float

    @classmethod
    def full(cls, rate: Rate, now: float) -> TokenBucket:
        """A bucket that nothing was taken from; `now` in seconds on any steady clock."""
        return cls(rate, float(rate.burst), now)

    def take(self, count: int, now: float) -> tuple[TokenBucket, float]:
        """The bucket without `count` tokens, and the seconds to wait until they may be used."""
        grown = min(float(self.rate.burst), self.tokens + (now - self.at) * self.rate.per_second)
        left = grown - count
        return TokenBucket(self.rate, left, now), max(0.0, -left / self.rate.per_second)
