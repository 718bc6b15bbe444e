"""Sends a unit of messages as one request, as often as it takes until it was tried.

A target that has no room, or that nobody reaches, has not tried the messages: they stay in hand, their
loans are prolonged, and the request is repeated with growing pauses. Only an answer, or a connection that
broke after the request was sent, ends it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from triggers.decisions.answers import Outcome, Verdict
from triggers.decisions.cloud_events import (
    Event,
    HttpMessage,
    batch_request,
    binary_request,
    structured_request,
)
from triggers.decisions.rates import TokenBucket
from triggers.delivery.attempt_spans import AttemptSpans
from triggers.delivery.health import Health
from triggers.delivery.limiter import Limiter
from triggers.delivery.loans import Loan, pauses
from triggers.delivery.target import Answer, HttpTarget
from triggers.spec.trigger import TriggerSpec

_AWAKE_S: Final = 10.0
"""A request that began so long after the last answer may have met a cold start."""
_LONGEST_PAUSE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Unit:
    """Messages that are sent in one request, with their events."""

    loans: tuple[Loan, ...]
    events: tuple[Event, ...]


class Sender:
    """Sends the units of one trigger."""

    def __init__(
        self,
        spec: TriggerSpec,
        target: HttpTarget,
        health: Health,
        observe: Callable[[Outcome, float], None],
        first: Callable[[Loan], None],
        *,
        spans: AttemptSpans | None = None,
    ) -> None:
        """`observe` is told of every request, `first` of a message's first one, `spans` records each."""
        self._spans = spans
        self._spec = spec
        self._target = target
        self._health = health
        self._observe = observe
        self._first = first
        self.limiter = Limiter(spec.concurrency)
        self._bucket = None if spec.rate is None else TokenBucket.full(spec.rate, time.monotonic())
        self._not_before = 0.0
        self._answered_at: float | None = None

    async def send(self, unit: Unit, attempt: int, posting: Callable[[bool], None]) -> Answer:
        """The answer to the first request that was tried.

        Args:
            unit: what is sent.
            attempt: of its first message.
            posting: called with True when a request begins and with False when it has ended; in between a
                cancellation leaves open whether the messages were worked on.
        """
        request = self._request(unit)
        headers = {
            "Idempotency-Key": f'"{_key(unit.events)}"',
            "X-Request-Id": _key(unit.events),
            "X-Pilotlight-Attempt": str(attempt),
        }
        parent = unit.events[0].attributes.get("traceparent") if len(unit.events) == 1 else None
        if parent:
            headers["traceparent"] = parent
        await self._rate_allows(len(unit.loans))
        for pause in pauses(1.0, _LONGEST_PAUSE_S):
            async with self.limiter.slot():
                await self._until_open()
                began = time.monotonic()
                for loan in unit.loans:
                    if not loan.sent:
                        loan.sent = True
                        self._first(loan)
                posting(True)
                try:
                    if self._spans is not None:
                        headers["traceparent"] = self._spans.begin(parent)
                    answer = await self._target.post(request, headers)
                finally:
                    posting(False)
                if self._spans is not None:
                    self._spans.ended(
                        traceparent=headers["traceparent"],
                        parent=parent,
                        events=unit.events,
                        outcome=answer.outcome,
                        attempt=attempt,
                        began=began,
                    )
                if self._tried(answer.outcome, began, pause):
                    return answer
        raise AssertionError("pauses never end")

    def _tried(self, outcome: Outcome, began: float, pause: float) -> bool:
        now = time.monotonic()
        answered = self._answered_at
        awake = answered is not None and answered <= began <= answered + _AWAKE_S
        self.limiter.observe(outcome.verdict, now - began if awake else None, now)
        self._observe(outcome, now - began)
        said = f"{outcome.reason}: {outcome.detail}" if outcome.detail else outcome.reason
        if outcome.verdict in {Verdict.THROTTLED, Verdict.UNREACHABLE}:
            reason = "Throttled" if outcome.verdict is Verdict.THROTTLED else "Unreachable"
            self._health.fails("target", reason, said)
            self._not_before = max(self._not_before, now + max(pause, outcome.retry_after_s or 0.0))
            return False
        self._answered_at = now
        if outcome.verdict is Verdict.DELIVERED:
            self._health.works("target")
        elif outcome.verdict is Verdict.FAILED:
            self._health.fails("target", "Failed", said)
        return True

    async def _until_open(self) -> None:
        """Wait until the target may be asked again after it was throttled or unreachable."""
        # Another answer may have moved the instant meanwhile.
        while (wait := self._not_before - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait)

    async def _rate_allows(self, count: int) -> None:
        if self._bucket is not None:
            self._bucket, wait = self._bucket.take(count, time.monotonic())
            await asyncio.sleep(wait)

    def _request(self, unit: Unit) -> HttpMessage:
        if self._spec.batch.size > 1:
            return batch_request(unit.events)
        [event] = unit.events
        if event.structured is not None or self._spec.format == "structured":
            return structured_request(event)
        return binary_request(event)


def _key(events: Sequence[Event]) -> str:
    """Equal for the same events, and different for others."""
    if len(events) == 1:
        return events[0].key
    return hashlib.sha256("\n".join(event.key for event in events).encode()).hexdigest()
