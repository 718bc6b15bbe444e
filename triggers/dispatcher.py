"""The dispatcher of one Trigger: borrows messages, posts their events, and settles them.

Messages without order are sent as they come, as many at a time as the target can take. Messages of a group
are sent one after another; when one of them has to be tried again, those behind it go back to the queue,
and other groups go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from transport.spans import Spans
from triggers.delivery.attempt_spans import AttemptSpans
from triggers.delivery.counts import TriggerCounts
from triggers.delivery.courier import Courier
from triggers.delivery.health import Health
from triggers.delivery.loans import Loans, pauses
from triggers.delivery.publisher import Publisher
from triggers.delivery.sender import Sender
from triggers.delivery.settler import Settler
from triggers.delivery.target import HttpTarget, address_of, open_session, service_address
from triggers.delivery.target_auth import TargetCredential
from triggers.delivery.waker import PATH, Waker
from triggers.messages import Backlog, Message
from triggers.metrics import TriggerMetrics
from triggers.sources.base import BrokerError, BrokerMisconfiguredError
from triggers.sources.factory import make_destination, make_source
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef
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
        spans: records a span for each attempt; None: nobody asks for them.
        environment: where addresses and credentials of brokers, and the folder of Secrets, are named.
    """

    gateway: str | None = None
    poll_s: float = 10.0
    drain_s: float = 30.0
    lease_s: float = 30.0
    embedded_sqs: str | None = None
    wake_ahead: bool = True
    spans: Spans | None = None
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
        self._counts = TriggerCounts(namespace, name, metrics)
        self._key = f"{namespace}/{name}"
        self.health = Health(self._key, self._counts.part_changed)
        settings = BrokerSettings(
            consumer=self._key,
            lease_s=options.lease_s,
            embedded_sqs=options.embedded_sqs,
            environment=options.environment,
        )
        self._source = make_source(spec.source, settings)
        self._loans = Loans(self._source, self.health, self._counts.lost)
        self._dead_letter = self._publisher("deadLetter", spec.dead_letter, settings)
        self._reply = self._publisher("reply", spec.reply, settings)
        self._opened = asyncio.Event()
        self._backlog = Backlog()
        self._sender: Sender
        self._courier: Courier
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
            ended=dict(self._counts.ended),
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
                keeping, *others = background
                await _cancelled(stopped, *others)
                await self._courier.drain(self._options.drain_s)
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
                self._counts.woke,
            )
            stack.push_async_callback(self._waker.close)
            address = address_of(self.spec.target, self.namespace, gateway)
            self._sender = Sender(
                self.spec,
                HttpTarget(session, address, self.spec.timeout, self._credential()),
                self.health,
                self._counts.request,
                self._counts.first,
                spans=None if self._options.spans is None else AttemptSpans(self._options.spans, self._key),
            )
            settler = Settler(
                name=self._key,
                spec=self.spec,
                address=self._source.address,
                loans=self._loans,
                dead_letter=self._dead_letter,
                reply=self._reply,
                settled=self._counts.settled,
            )
            self._courier = Courier(
                name=self._key,
                spec=self.spec,
                source=self._source,
                loans=self._loans,
                sender=self._sender,
                settler=settler,
                duplicate=self._counts.duplicate,
            )
            yield

    def _credential(self) -> TargetCredential | None:
        auth = self.spec.target.auth
        return None if auth is None else TargetCredential.of_secret(auth, self._options.environment)

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
            self._counts.received(len(messages))
        for message in messages:
            self._courier.take(self._loans.add(message))

    # Observing

    async def _watch_backlog(self) -> None:
        if not self.spec.paused:
            await self._opened.wait()
        while True:
            try:
                self._backlog = self._with_own(await self._source_backlog())
                self._show()
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

    def _show(self) -> None:
        self._counts.show(
            self._backlog,
            service=self.spec.target.service or "",
            queue=self._source.address,
            in_hand=len(self._loans),
            in_flight=self._sender.limiter.in_flight,
            limit=self._sender.limiter.limit,
        )


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
