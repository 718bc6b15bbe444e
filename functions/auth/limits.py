"""What one caller has left at one replica: requests and tokens per minute, in flight, tokens per day (pure).

Rates are token buckets: a full minute's amount may come at once, and comes back evenly. What a request costs
in tokens is known at its end, so a bucket of tokens may go below zero by what was in flight, and the next
request waits until it is above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from functions.auth.caller import CallerLimits

_MINUTE_S = 60.0
_DAY_S = 86_400


@dataclass(slots=True)
class Bucket:
    """An amount that comes back evenly. Instants are seconds of one clock."""

    capacity: float
    """At most so much, at the start as well."""
    updated: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.capacity

    @property
    def per_second(self) -> float:
        """How much comes back in a second: the capacity in a minute."""
        return self.capacity / _MINUTE_S

    def at(self, now: float) -> float:
        """The amount at an instant."""
        if now > self.updated:
            self.level = min(self.capacity, self.level + (now - self.updated) * self.per_second)
            self.updated = now
        return self.level

    def take(self, amount: float, now: float) -> None:
        """Take an amount; the level may become negative."""
        self.at(now)
        self.level -= amount

    def seconds_until(self, amount: float, now: float) -> float:
        """Seconds until so much is there."""
        return max(0.0, (amount - self.at(now)) / self.per_second)


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The limit that a request exceeds."""

    limit: str
    """Its name in a key's record, such as `requestsPerMinute`."""
    allowed: int
    retry_after: float
    """Seconds until a request may come."""

    @property
    def detail(self) -> str:
        """What the caller is told."""
        words = {
            "requestsPerMinute": "requests a minute",
            "tokensPerMinute": "tokens a minute",
            "inFlight": "requests at the same time",
            "tokensPerDay": "tokens a day",
        }
        return f"the limit of {self.allowed} {words[self.limit]} is reached"


class CallerAccount:
    """What one caller uses at this replica.

    Args:
        limits: of the caller.
        now: monotonic seconds.
    """

    def __init__(self, limits: CallerLimits, now: float) -> None:
        self.limits = limits
        self.in_flight = 0
        self._requests = _bucket(limits.requests_per_minute, now)
        self._tokens = _bucket(limits.tokens_per_minute, now)
        self._day: int | None = None
        self._tokens_today = 0

    def admit(self, now: float, wall: float) -> Exceeded | None:
        """Count a request that begins; or the limit that forbids it, and nothing is counted.

        Args:
            now: monotonic seconds.
            wall: seconds since the epoch.
        """
        exceeded = self._exceeded(now, wall)
        if exceeded is None:
            self.in_flight += 1
            if self._requests is not None:
                self._requests.take(1, now)
        return exceeded

    def finish(self, tokens: int, now: float, wall: float) -> None:
        """A request has ended, having used so many tokens."""
        self.in_flight -= 1
        self._roll(wall)
        self._tokens_today += tokens
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def headers(self, now: float, wall: float) -> list[tuple[bytes, bytes]]:
        """OpenAI's fields `x-ratelimit-*`; of the tokens, those of the limit that is nearer.

        A reset is the time until the whole amount is there again.
        """
        fields: list[tuple[bytes, bytes]] = []
        if self._requests is not None:
            fields += _fields(b"requests", self._requests, now)
        if self._tokens is not None:
            fields += _fields(b"tokens", self._tokens, now)
        elif self.limits.tokens_per_day is not None:
            self._roll(wall)
            left = max(0, self.limits.tokens_per_day - self._tokens_today)
            fields += _three(b"tokens", self.limits.tokens_per_day, left, _until_midnight(wall))
        return fields

    def _exceeded(self, now: float, wall: float) -> Exceeded | None:
        limits = self.limits
        self._roll(wall)
        if limits.in_flight is not None and self.in_flight >= limits.in_flight:
            return Exceeded("inFlight", limits.in_flight, 1.0)
        if limits.tokens_per_day is not None and self._tokens_today >= limits.tokens_per_day:
            return Exceeded("tokensPerDay", limits.tokens_per_day, _until_midnight(wall))
        if limits.tokens_per_minute is not None and self._tokens is not None and self._tokens.at(now) <= 0:
            return Exceeded("tokensPerMinute", limits.tokens_per_minute, self._tokens.seconds_until(1, now))
        if (
            limits.requests_per_minute is not None
            and self._requests is not None
            and self._requests.at(now) < 1
        ):
            wait = self._requests.seconds_until(1, now)
            return Exceeded("requestsPerMinute", limits.requests_per_minute, wait)
        return None

    def _roll(self, wall: float) -> None:
        day = int(wall // _DAY_S)
        if day != self._day:
            self._day, self._tokens_today = day, 0


def _bucket(limit: int | None, now: float) -> Bucket | None:
    return None if limit is None else Bucket(float(limit), now)


def _until_midnight(wall: float) -> float:
    return _DAY_S - wall % _DAY_S


def _fields(what: bytes, bucket: Bucket, now: float) -> list[tuple[bytes, bytes]]:
    left = max(0, math.floor(bucket.at(now)))
    return _three(what, int(bucket.capacity), left, bucket.seconds_until(bucket.capacity, now))


def _three(what: bytes, limit: int, left: int, reset: float) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % left),
        (b"x-ratelimit-reset-" + what, _duration(reset).encode()),
    ]


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `6m0s`, `1.5s`, `20ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    hours, rest = divmod(math.ceil(seconds * 10) / 10, 3600)
    minutes, left = divmod(rest, 60)
    text = f"{int(hours)}h" if hours else ""
    text += f"{int(minutes)}m" if hours or minutes else ""
    return f"{text}{left:.1f}".removesuffix(".0") + "s"
