"""What happens to a message after its request: acknowledged, given back for a time, or dead-lettered."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from triggers.decisions import dead_letters
from triggers.decisions.answers import Outcome, Verdict
from triggers.decisions.cloud_events import (
    Event,
    MalformedEventError,
    event_of_response,
    outgoing,
    wrapped_response,
)
from triggers.decisions.retries import Attempt, GiveUp, after_failure, delay, with_attempt
from triggers.delivery.loans import Loan, Loans
from triggers.delivery.memory import Memory
from triggers.delivery.publisher import Publisher
from triggers.delivery.target import Answer
from triggers.sources.base import BrokerError, MessageRefusedError
from triggers.spec.trigger import Retry, TriggerSpec

log = logging.getLogger("triggers")

_LONGEST_HOLD_S: Final = 12 * 3600.0
"""Longest delay of a message that is given up and has nowhere to go."""


class Settler:
    """Settles the messages of one trigger.

    Args:
        name: `NAMESPACE/NAME` of the Trigger.
        spec: of the Trigger.
        address: of the queue.
        loans: the messages in hand.
        dead_letter: where messages go that are given up, if anywhere.
        reply: where answers go, if anywhere.
        settled: told of each message's end: delivered, retried, dead-lettered, kept.
    """

    def __init__(
        self,
        *,
        name: str,
        spec: TriggerSpec,
        address: str,
        loans: Loans,
        dead_letter: Publisher | None,
        reply: Publisher | None,
        settled: Callable[[str], None],
    ) -> None:
        self._name = name
        self._retry: Retry = spec.retry
        self._target = str(spec.target)
        self._address = address
        self._loans = loans
        self._dead_letter = dead_letter
        self._reply = reply
        self._settled = settled
        self._history: Memory[tuple[Attempt, ...]] = Memory()
        self._done: Memory[bool] = Memory()
        self._given_up: Memory[tuple[str, str]] = Memory()
        self._said_that_it_stays = False

    def is_done(self, loan: Loan) -> bool:
        """The message was delivered by this process, and its acknowledgement was lost."""
        return self._done.get(loan.message.id) is not None

    def given_up(self, loan: Loan) -> tuple[str, str] | None:
        """Event id and reason of a message whose dead letter could not be published when it was given up."""
        return self._given_up.get(loan.message.id)

    def attempt(self, loan: Loan) -> int:
        """The number of this delivery; counted here where the broker does not count."""
        counted = loan.message.attempt
        return counted if counted is not None else len(self._history.get(loan.message.id) or ()) + 1

    async def acknowledge(self, loan: Loan, outcome: str) -> None:
        """Done with it."""
        stale = await self._loans.acknowledge([loan])
        if stale:
            self._done.put(loan.message.id, True)
        else:
            self._done.forget(loan.message.id)
        self._history.forget(loan.message.id)
        self._settled(outcome)

    async def delivered(self, loan: Loan, event: Event, answer: Answer) -> bool:
        """Publish the reply, if there is a place for it, then acknowledge; False: the message comes again."""
        if self._reply is not None and answer.body:
            try:
                await self._publish_reply(loan, event, answer, self._reply)
            except (MalformedEventError, MessageRefusedError) as error:
                outcome = Outcome(Verdict.REJECTED, "reply", str(error))
                self._remember(loan, outcome)
                return await self.dead_letter(loan, event.id, f"rejected: reply: {error}")
        await self.acknowledge(loan, "delivered")
        return True

    async def _publish_reply(self, loan: Loan, event: Event, answer: Answer, reply: Publisher) -> None:
        if not answer.complete:
            raise MessageRefusedError("the answer is too long to be published")
        found = event_of_response(answer.headers, answer.body)
        if found is None:
            content_type = answer.headers.get("content-type")
            found = wrapped_response(event, source=self._target, content_type=content_type, body=answer.body)
        await reply.publish_at_last(outgoing(found, loan.message.group))

    async def failed(self, loan: Loan, event_id: str, outcome: Outcome) -> bool:
        """Try it again later, or give it up; False: it is tried again."""
        self._remember(loan, outcome)
        enqueued = loan.message.enqueued
        age_s = None if enqueued is None else (datetime.now(UTC) - enqueued).total_seconds()
        attempt = self.attempt_so_far(loan)
        decision = after_failure(
            self._retry,
            outcome,
            attempt=attempt,
            age_s=age_s,
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )
        if isinstance(decision, GiveUp):
            return await self.dead_letter(loan, event_id, decision.reason)
        await self._loans.retry(loan, decision.delay_s)
        self._settled("retried")
        return False

    def attempt_so_far(self, loan: Loan) -> int:
        """As `attempt`, after the attempt was remembered."""
        counted = loan.message.attempt
        return counted if counted is not None else len(self._history.get(loan.message.id) or (None,))

    def _remember(self, loan: Loan, outcome: Outcome) -> None:
        known = self._history.get(loan.message.id) or ()
        attempt = Attempt(datetime.now(UTC), self.attempt(loan), outcome.reason, outcome.detail)
        self._history.put(loan.message.id, with_attempt(known, attempt))

    async def dead_letter(self, loan: Loan, event_id: str, reason: str) -> bool:
        """Publish the message with its reason, then acknowledge; False: that is not possible, so it stays."""
        if self._dead_letter is None:
            if not self._said_that_it_stays:
                self._said_that_it_stays = True
                log.warning(
                    "trigger %s: message %s is given up (%s), and there is no deadLetter: "
                    "such messages stay in the queue and are tried ever more seldom",
                    self._name, loan.message.id, reason,
                )  # fmt: skip
            return await self._keep(loan)
        letter = dead_letters.dead_letter(
            loan.message,
            event_id=event_id,
            trigger=self._name,
            source=self._address,
            reason=reason,
            attempts=self.attempt_so_far(loan),
            history=self._history.get(loan.message.id) or (),
            at=datetime.now(UTC),
        )
        try:
            try:
                await self._dead_letter.publish(letter)
            except MessageRefusedError:
                await self._dead_letter.publish(dead_letters.shortened(letter))
        except BrokerError:
            self._given_up.put(loan.message.id, (event_id, reason))
            return await self._keep(loan)
        log.warning("trigger %s: message %s is dead-lettered: %s", self._name, loan.message.id, reason)
        self._given_up.forget(loan.message.id)
        await self.acknowledge(loan, "dead-lettered")
        return True

    async def _keep(self, loan: Loan) -> bool:
        backoff = self._retry.backoff.model_copy(update={"max": _LONGEST_HOLD_S})
        await self._loans.retry(loan, delay(backoff, max(1, self.attempt_so_far(loan)), 0.0))
        self._settled("kept")
        return False
