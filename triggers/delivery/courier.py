"""Brings messages to the target: alone, in batches, or group by group, and has each settled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from triggers.decisions.answers import Outcome, Verdict, failed_items, one_line
from triggers.decisions.cloud_events import Event, MalformedEventError, event_of
from triggers.delivery.loans import Loan, Loans
from triggers.delivery.sender import Sender, Unit
from triggers.delivery.settler import Settler
from triggers.delivery.target import Answer
from triggers.sources.base import Source
from triggers.spec.filters import matches
from triggers.spec.trigger import TriggerSpec

log = logging.getLogger("triggers")


class Courier:
    """The messages in hand of one trigger, on their way.

    Args:
        name: `NAMESPACE/NAME` of the Trigger.
        spec: of the Trigger.
        source: they are from.
        loans: of the source.
        sender: posts them.
        settler: settles them.
        duplicate: called for a delivery of a message that is done already.
    """

    def __init__(
        self,
        *,
        name: str,
        spec: TriggerSpec,
        source: Source,
        loans: Loans,
        sender: Sender,
        settler: Settler,
        duplicate: Callable[[], None],
    ) -> None:
        self._name = name
        self._spec = spec
        self._source = source
        self._loans = loans
        self._sender = sender
        self._settler = settler
        self._duplicate = duplicate
        self._groups: dict[str, deque[Loan]] = {}
        self._batch: list[Loan] = []
        self._batch_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def take(self, loan: Loan) -> None:
        """Bring a message to the target as soon as it can take it."""
        if self._source.limits.ordered and loan.message.group is not None:
            self._into_group(loan.message.group, loan)
        elif self._spec.batch.size > 1:
            self._into_batch(loan)
        else:
            self._start(self._deliver([loan]))

    def _into_group(self, group: str, loan: Loan) -> None:
        if group in self._groups:
            self._groups[group].append(loan)
            return
        self._groups[group] = deque([loan])
        self._start(self._deliver_group(group))

    def _into_batch(self, loan: Loan) -> None:
        if (loan.message.attempt or 1) > 1:
            # One that failed before is sent alone, so that it cannot take others with it.
            self._start(self._deliver([loan]))
            return
        self._batch.append(loan)
        if len(self._batch) >= self._spec.batch.size:
            self._send_batch()
        elif self._batch_timer is None:
            loop = asyncio.get_running_loop()
            self._batch_timer = loop.call_later(self._spec.batch.window, self._send_batch)

    def _send_batch(self) -> None:
        if self._batch_timer is not None:
            self._batch_timer.cancel()
            self._batch_timer = None
        batch, self._batch = self._batch, []
        if batch:
            self._start(self._deliver(batch))

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver_group(self, group: str) -> None:
        """Send a group's messages in their order; one that has to be tried again sends the others back."""
        waiting = self._groups[group]
        try:
            while waiting:
                size = self._spec.batch.size if (waiting[0].message.attempt or 1) == 1 else 1
                loans = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                if not await self._deliver(loans):
                    break
        finally:
            del self._groups[group]
        await self._loans.release(list(waiting))

    async def _deliver(self, loans: list[Loan]) -> bool:
        """Send messages in one request and settle them; False: some of them come again."""
        try:
            return await self._send(loans)
        except Exception:
            # A defect of the dispatcher that one message meets must neither stop others nor hold it for ever.
            log.exception("trigger %s: internal error; the messages are tried again", self._name)
            for loan in loans:
                if loan in self._loans.held:
                    await self._loans.retry(loan, self._spec.retry.backoff.max)
            return False

    async def _send(self, loans: list[Loan]) -> bool:
        try:
            unit, settled = await self._unit(loans)
            if not unit.loans:
                return settled
            attempt = self._settler.attempt(unit.loans[0])
            task = asyncio.current_task()
            assert task is not None
            with self._interruptible(task):

                def posting(begins: bool) -> None:  # noqa: FBT001 - told by the sender
                    (self._waiting.discard if begins else self._waiting.add)(task)

                answer = await self._sender.send(unit, attempt, posting)
        except asyncio.CancelledError:
            # Not sent, or its answer was not waited for: the queue has it again at once.
            await self._loans.release([loan for loan in loans if loan in self._loans.held])
            raise
        return await self._settle(unit, answer) and settled

    @contextmanager
    def _interruptible(self, task: asyncio.Task[Any]) -> Iterator[None]:
        """A shutdown may cancel the task at once: it waits, and nothing is under way."""
        if self._stopping:
            raise asyncio.CancelledError
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)

    async def _unit(self, loans: list[Loan]) -> tuple[Unit, bool]:
        """What is to be sent of them; the others are settled. False: one of those comes again."""
        unit_loans: list[Loan] = []
        events: list[Event] = []
        settled = True
        for loan in loans:
            if not settled and self._source.limits.ordered:
                await self._loans.release([loan])
                continue
            try:
                event, gone = await self._event(loan)
            except MalformedEventError as error:
                outcome = Outcome(Verdict.REJECTED, "malformed-event", str(error))
                settled &= await self._settler.failed(loan, loan.message.id, outcome)
                continue
            if event is None:
                settled &= gone
                continue
            unit_loans.append(loan)
            events.append(event)
        return Unit(tuple(unit_loans), tuple(events)), settled

    async def _event(self, loan: Loan) -> tuple[Event | None, bool]:
        """The event to send. None: the message is settled without it; False beside it: it comes again.

        Raises:
            MalformedEventError: the message says that it is a CloudEvent, and is none.
        """
        if self._settler.is_done(loan):
            self._duplicate()
            await self._settler.acknowledge(loan, "duplicate")
            return None, True
        if (given_up := self._settler.given_up(loan)) is not None:
            return None, await self._settler.dead_letter(loan, *given_up)
        event = event_of(loan.message, source=self._source.address, kind=self._spec.source.kind)
        if not matches(self._spec.filters, event.attributes):
            await self._settler.acknowledge(loan, "filtered")
            return None, True
        return event, True

    async def _settle(self, unit: Unit, answer: Answer) -> bool:
        """Settle the messages of an answered request; False: some of them come again."""
        pairs = list(zip(unit.loans, unit.events, strict=True))
        if answer.outcome.verdict is Verdict.DELIVERED:
            ids = [event.id for event in unit.events]
            failed = failed_items(answer.body, ids) if self._spec.batch.size > 1 else frozenset()
            said = one_line(answer.body.decode("utf-8", "replace"))
            outcome = Outcome(Verdict.FAILED, "batch-item", said)
        else:
            failed = frozenset(event.id for event in unit.events)
            outcome = answer.outcome
            if outcome.verdict is Verdict.REJECTED and len(pairs) > 1:
                # Which of them it will not take shows when each is sent alone.
                outcome = Outcome(Verdict.FAILED, outcome.reason, outcome.detail)
        all_settled = True
        for loan, event in pairs:
            if event.id in failed:
                all_settled &= await self._settler.failed(loan, event.id, outcome)
            else:
                all_settled &= await self._settler.delivered(loan, event, answer)
        return all_settled

    async def drain(self, seconds: float) -> None:
        """Give back what is not sent; wait for requests under way, then give those back too."""
        self._stopping = True
        self._send_batch()
        for task in tuple(self._waiting):
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=seconds)
            if late:
                log.warning(
                    "trigger %s: %d requests were not answered in %g s; their messages go back",
                    self._name, len(late), seconds,
                )  # fmt: skip
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._loans.release(list(self._loans.held))
