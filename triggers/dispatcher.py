"""The dispatcher of one Trigger: borrows messages, posts their events, and settles them.

Messages without order are sent as they come, as many at a time as the target can take. Messages of a group
are sent one after another; when one of them has to be tried again, those behind it go back to the queue,
and other groups go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from triggers.decisions.answers import Outcome, Verdict, failed_items, one_line
from triggers.decisions.cloud_events import Event, MalformedEventError, event_of
from triggers.delivery.health import Health, Part
from triggers.delivery.loans import Loan, Loans, pauses
from triggers.delivery.publisher import Publisher
from triggers.delivery.sender import Sender, Unit
from triggers.delivery.settler import Settler
from triggers.delivery.target import Answer, HttpTarget, address_of, open_session, service_address
from triggers.delivery.target_auth import TargetCredential
from triggers.delivery.waker import PATH, Waker
from triggers.messages import Backlog, Message
from triggers.metrics import TriggerMetrics
from triggers.sources.base import BrokerError, BrokerMisconfiguredError
from triggers.sources.factory import make_destination, make_source
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef
from triggers.spec.filters import matches
from triggers.spec.trigger import TriggerSpec

log = logging.getLogger("triggers")

MISCONFIGURED_PAUSE_S: Final = 30.0
"""Between two looks at a queue that is missing or refuses the credentials: somebody may have mended it."""
BACKLOG_S: Final = 5.0
"""Between two readings of the backlog."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a dispatcher is told besides its Trigger.

    Attributes:
        gateway: a URL that routes by `Host`; None: Services answer at their names in the cluster.
        poll_s: how long one request for messages waits at the broker; a shutdown may take that long.
        drain_s: how long requests under way are waited for at a shutdown.
        lease_s: seconds for which messages are borrowed at a time, where the broker lets the consumer choose.
        embedded_sqs: URL of an SQS server of this machine's own, see `BrokerSettings`.
        wake_ahead: False measures without it.
        key_file: file with the key that the target asks for, read for each request. None: it asks for none.
        environment: where addresses and credentials of brokers, and the folder of Secrets, are named.
    """

    gateway: str | None = None
    poll_s: float = 10.0
    drain_s: float = 30.0
    lease_s: float = 30.0
    embedded_sqs: str | None = None
    wake_ahead: bool = True
    key_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A dispatcher's state.

    Attributes:
        opened: the queue has been reached at least once.
        backlog: of the queue, with the messages in hand that were not sent yet.
        in_flight: requests under way.
        limit: requests that may be under way.
        ended: messages since the start, by what became of them.
    """

    opened: bool
    backlog: Backlog
    in_flight: int
    limit: int
    ended: Mapping[str, int]


class Dispatcher:
    """Runs one Trigger. Make it anew for another spec."""

    def __init__(
        self, namespace: str, name: str, spec: TriggerSpec, options: Options, metrics: TriggerMetrics
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.spec = spec
        self._options = options
        self._metrics = metrics
        self._labels = (namespace, name)
        self._key = f"{namespace}/{name}"
        self.health = Health(self._key, self._part_changed)
        settings = BrokerSettings(
            consumer=self._key,
            lease_s=options.lease_s,
            embedded_sqs=options.embedded_sqs,
            environment=options.environment,
        )
        self._source = make_source(spec.source, settings)
        self._loans = Loans(self._source, self.health, self._count_lost)
        self._dead_letter = self._publisher("deadLetter", spec.dead_letter, settings)
        self._reply = self._publisher("reply", spec.reply, settings)
        self._groups: dict[str, deque[Loan]] = {}
        self._batch: list[Loan] = []
        self._batch_timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._opened = asyncio.Event()
        self._backlog = Backlog()
        self._ended: Counter[str] = Counter()
        self._sender: Sender
        self._settler: Settler
        self._waker: Waker

    def _publisher(
        self, part: Literal["deadLetter", "reply"], ref: QueueRef | None, settings: BrokerSettings
    ) -> Publisher | None:
        return None if ref is None else Publisher(make_destination(ref, settings), part, self.health)

    @property
    def snapshot(self) -> Snapshot:
        """How it stands."""
        sender = getattr(self, "_sender", None)
        limiter = None if sender is None else sender.limiter
        return Snapshot(
            opened=self._opened.is_set(),
            ended=dict(self._ended),
            backlog=self._backlog,
            in_flight=0 if limiter is None else limiter.in_flight,
            limit=self.spec.concurrency if limiter is None else limiter.limit,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then finish what is under way or give it back."""
        async with self._connected():
            background = [
                asyncio.create_task(self._loans.keep()),
                asyncio.create_task(self._watch_backlog()),
            ]
            if not self.spec.paused:
                background.append(asyncio.create_task(self._take_messages()))
            stopped = asyncio.create_task(stop.wait())
            try:
                done, _ = await asyncio.wait([stopped, *background], return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    task.result()  # none of them ends by itself: raises
            finally:
                self._stopping = True
                keeping, *others = background
                await _cancelled(stopped, *others)
                await self._drain()
                await _cancelled(keeping)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(
                open_session(self.spec.concurrency + len(self.spec.wake_ahead))
            )
            stack.push_async_callback(self._source.close)
            for publisher in (self._dead_letter, self._reply):
                if publisher is not None:
                    stack.push_async_callback(publisher.close)
            gateway = self._options.gateway
            self._waker = Waker(
                session,
                [service_address(one, self.namespace, PATH, gateway) for one in self._to_wake()],
                self.spec.timeout,
                self._metrics.wakes.labels(*self._labels).inc,
            )
            stack.push_async_callback(self._waker.close)
            address = address_of(self.spec.target, self.namespace, gateway)
            self._sender = Sender(
                self.spec,
                HttpTarget(session, address, self.spec.timeout, self._credential()),
                self.health,
                self._count_request,
                self._count_first,
            )
            self._settler = Settler(
                name=self._key,
                spec=self.spec,
                address=self._source.address,
                loans=self._loans,
                dead_letter=self._dead_letter,
                reply=self._reply,
                settled=self._count_settled,
            )
            parts: tuple[Part, ...] = ("source", "target", "deadLetter", "reply")
            for part in parts:
                self._metrics.up.labels(*self._labels, part).set(1)
            yield

    def _credential(self) -> TargetCredential | None:
        auth, key_file = self.spec.target.auth, self._options.key_file
        if auth is not None:
            return TargetCredential.of_secret(auth, self._options.environment)
        return None if key_file is None else TargetCredential(key_file)

    def _to_wake(self) -> list[str]:
        return list(self.spec.wake_ahead) if self._options.wake_ahead else []

    # Taking messages

    async def _take_messages(self) -> None:
        """Borrow messages for as long as there is room, for ever."""
        opened = False
        waits = pauses()
        while True:
            try:
                if not opened:
                    await self._source.open()
                    opened = True
                    self._opened.set()
                room = await self._room()
                messages = await self._source.receive(
                    min(room, self._source.limits.batch), self._options.poll_s
                )
            except BrokerMisconfiguredError as error:
                opened = False
                self.health.fails("source", "Misconfigured", str(error))
                await asyncio.sleep(MISCONFIGURED_PAUSE_S)
                continue
            except BrokerError as error:
                opened = False
                self.health.fails("source", "Unavailable", str(error))
                await asyncio.sleep(next(waits))
                continue
            waits = pauses()
            self.health.works("source")
            self._take(messages)

    async def _room(self) -> int:
        """Wait until more messages may be borrowed; how many."""
        while (room := self._capacity() - len(self._loans)) <= 0:
            await self._loans.changed()
        return room

    def _capacity(self) -> int:
        """What is sent now, and as much again so that no slot waits for the broker; bounded."""
        now = self._sender.limiter.limit * self.spec.batch.size
        return now + min(now, max(self._source.limits.batch, self.spec.batch.size))

    def _take(self, messages: list[Message]) -> None:
        if messages:
            self._waker.wake()
            self._metrics.received.labels(*self._labels).inc(len(messages))
        for message in messages:
            loan = self._loans.add(message)
            if self._source.limits.ordered and message.group is not None:
                self._into_group(message.group, loan)
            elif self.spec.batch.size > 1:
                self._into_batch(loan)
            else:
                self._start(self._deliver([loan]))
        self._metrics.in_hand.labels(*self._labels).set(len(self._loans))

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
        if len(self._batch) >= self.spec.batch.size:
            self._send_batch()
        elif self._batch_timer is None:
            loop = asyncio.get_running_loop()
            self._batch_timer = loop.call_later(self.spec.batch.window, self._send_batch)

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

    # Delivering

    async def _deliver_group(self, group: str) -> None:
        """Send a group's messages in their order; one that has to be tried again sends the others back."""
        waiting = self._groups[group]
        try:
            while waiting:
                size = self.spec.batch.size if (waiting[0].message.attempt or 1) == 1 else 1
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
            log.exception("trigger %s: internal error; the messages are tried again", self._key)
            for loan in loans:
                if loan in self._loans.held:
                    await self._loans.retry(loan, self.spec.retry.backoff.max)
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
            self._metrics.duplicates.labels(*self._labels).inc()
            await self._settler.acknowledge(loan, "duplicate")
            return None, True
        if (reason := self._settler.given_up(loan)) is not None:
            return None, await self._settler.dead_letter(loan, loan.message.id, reason)
        event = event_of(loan.message, source=self._source.address, kind=self.spec.source.kind)
        if not matches(self.spec.filters, event.attributes):
            await self._settler.acknowledge(loan, "filtered")
            return None, True
        return event, True

    async def _settle(self, unit: Unit, answer: Answer) -> bool:
        """Settle the messages of an answered request; False: some of them come again."""
        pairs = list(zip(unit.loans, unit.events, strict=True))
        if answer.outcome.verdict is Verdict.DELIVERED:
            ids = [event.id for event in unit.events]
            failed = failed_items(answer.body, ids) if self.spec.batch.size > 1 else frozenset()
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
        self._metrics.in_hand.labels(*self._labels).set(len(self._loans))
        return all_settled

    # Stopping

    async def _drain(self) -> None:
        """Give back what is not sent; wait for requests under way, then give those back too."""
        self._send_batch()
        for task in tuple(self._waiting):
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=self._options.drain_s)
            if late:
                log.warning(
                    "trigger %s: %d requests were not answered in %g s; their messages go back",
                    self._key, len(late), self._options.drain_s,
                )  # fmt: skip
            await _cancelled(*late)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._loans.release(list(self._loans.held))

    # Observing

    async def _watch_backlog(self) -> None:
        if not self.spec.paused:
            await self._opened.wait()
        while True:
            try:
                self._backlog = self._with_own(await self._source_backlog())
                self._show_backlog()
            except BrokerError as error:
                if self.spec.paused:  # else whoever takes messages reports it
                    self.health.fails("source", "Unavailable", str(error))
            await asyncio.sleep(BACKLOG_S)

    async def _source_backlog(self) -> Backlog:
        if self.spec.paused:
            if not self._opened.is_set():
                await self._source.open()  # nobody else does
                self._opened.set()
            backlog = await self._source.backlog()
            self.health.works("source")
            return backlog
        return await self._source.backlog()

    def _with_own(self, backlog: Backlog) -> Backlog:
        """With the messages in hand that no request was sent for yet."""
        own = [loan.message for loan in self._loans.held if not loan.sent]
        now = datetime.now(UTC)
        ages = [(now - message.enqueued).total_seconds() for message in own if message.enqueued is not None]
        if backlog.oldest_age_s is not None:
            ages.append(backlog.oldest_age_s)
        messages = None if backlog.messages is None else backlog.messages + len(own)
        return Backlog(messages, max(ages, default=None))

    def _show_backlog(self) -> None:
        service = self.spec.target.service or ""
        labels = (self.namespace, service, self._source.address, self.name)
        if self._backlog.messages is not None:
            self._metrics.backlog.labels(*labels).set(self._backlog.messages)
        self._metrics.oldest_age.labels(*labels).set(self._backlog.oldest_age_s or 0.0)
        self._metrics.in_flight.labels(*self._labels).set(self._sender.limiter.in_flight)
        self._metrics.limit.labels(*self._labels).set(self._sender.limiter.limit)

    def _part_changed(self, part: Part, works: bool) -> None:  # noqa: FBT001 - a callback of Health
        self._metrics.up.labels(*self._labels, part).set(1 if works else 0)
        if not works:
            self._metrics.errors.labels(*self._labels, part).inc()

    def _count_lost(self, count: int) -> None:
        self._metrics.lost_loans.labels(*self._labels).inc(count)

    def _count_settled(self, outcome: str) -> None:
        self._ended[outcome] += 1
        self._metrics.settled.labels(*self._labels, outcome).inc()

    def _count_request(self, outcome: Outcome, seconds: float) -> None:
        self._metrics.requests.labels(*self._labels, outcome.verdict.value, outcome.reason).inc()
        self._metrics.request_seconds.labels(*self._labels).observe(seconds)

    def _count_first(self, loan: Loan) -> None:
        if loan.message.enqueued is not None and loan.message.attempt in {None, 1}:
            age = datetime.now(UTC) - loan.message.enqueued
            self._metrics.queue_seconds.labels(*self._labels).observe(max(0.0, age.total_seconds()))


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
