"""When a failed message is tried again, and when it is given up (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from triggers.decisions.answers import Outcome, Verdict
from triggers.spec.trigger import Backoff, Retry


@dataclass(frozen=True, slots=True)
class Attempt:
    """One delivery that did not succeed."""

    at: datetime
    number: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Give it back to the queue for `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Dead-letter it."""

    reason: str


KEPT_ATTEMPTS: Final = 20
"""Attempts of one message that are remembered; the first and the last ones."""


def delay(backoff: Backoff, failures: int, jitter: float) -> float:
    """Seconds before the next try after `failures` in a row; `jitter` (0 to 1) takes up to half away."""
    # The exponent is bounded, because a float has an end.
    grown = backoff.initial * backoff.factor ** min(failures - 1, 64)
    return min(backoff.max, grown) * (1 - jitter / 2)


def after_failure(
    retry: Retry, outcome: Outcome, *, attempt: int, age_s: float | None, jitter: float
) -> TryAgain | GiveUp:
    """What becomes of a message whose attempt number `attempt` failed or was rejected.

    Args:
        retry: the Trigger's.
        outcome: of the attempt.
        attempt: 1 is the first.
        age_s: seconds since it was published; None: unknown.
        jitter: a random number from 0 to 1.
    """
    if outcome.verdict is Verdict.REJECTED:
        return GiveUp(f"rejected: {outcome.reason}")
    if attempt >= retry.attempts:
        return GiveUp(f"{attempt} attempts failed, the last one: {outcome.reason}")
    wait = max(delay(retry.backoff, attempt, jitter), outcome.retry_after_s or 0.0)
    if retry.total_time is not None and age_s is not None and age_s + wait > retry.total_time:
        return GiveUp(f"not delivered in {retry.total_time:g} s, the last attempt: {outcome.reason}")
    return TryAgain(wait)


def with_attempt(history: Sequence[Attempt], new: Attempt) -> tuple[Attempt, ...]:
    """The history with one more; of a long one the middle is left out."""
    grown = (*history, new)
    return grown if len(grown) <= KEPT_ATTEMPTS else (*grown[:5], *grown[-(KEPT_ATTEMPTS - 5) :])
