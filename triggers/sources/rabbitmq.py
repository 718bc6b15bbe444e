"""RabbitMQ: deliveries are lent for as long as the connection lives; retries wait in queues of their own.

A message that failed is published once more, into a queue from which it returns when its delay is over, and
only then acknowledged: nothing is requeued in a loop. Its attempts travel in a header; those that ended with
the process are counted by quorum queues. With `ordered` one message is lent at a time, and one that failed is
kept here for its delay and then returned to the head of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import aio_pika.exceptions
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from triggers.messages import Backlog, Message, OutgoingMessage
from triggers.sources.base import BrokerError, Limits
from triggers.sources.rabbitmq_connection import CALL_S, RabbitmqConnection, translated
from triggers.sources.rabbitmq_messages import again, from_amqp, retry_queue, to_amqp, unchanged

if TYPE_CHECKING:
    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import RabbitmqQueue

BATCH: Final = 100
MAX_DELAY_S: Final = 14 * 86_400.0
_MAX_PREFETCH: Final = 4096
_IDLE_S: Final = 2.0
"""Without a `receive` for so long, what was fetched ahead goes back for others."""


_HANDOVER_S: Final = 0.1
"""An acknowledgement makes room for another message; coming after the consumer's end, it would be counted."""


class RabbitmqSource:
    """A queue as a source."""

    def __init__(self, spec: RabbitmqQueue, settings: BrokerSettings) -> None:
        self._spec = spec
        self._connection = RabbitmqConnection(spec, settings, self._wake)
        self._channel: AbstractChannel | None = None
        self._queue: AbstractQueue | None = None
        self._consumer: str | None = None
        self._prefetch = 0
        self._lent = 0
        self._settled_at = 0.0
        self._fetched: deque[AbstractIncomingMessage] = deque()
        self._arrived = asyncio.Event()
        self._consuming = asyncio.Lock()
        self._receivers = 0
        self._idle: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """`rabbitmq:QUEUE`."""
        return self._connection.address

    @property
    def limits(self) -> Limits:
        """No lease: a delivery lives as long as the connection, or until the broker's `consumer_timeout`."""
        return Limits(batch=BATCH, retry_delay_s=MAX_DELAY_S, ordered=self._spec.ordered)

    def _wake(self) -> None:
        self._arrived.set()

    async def open(self) -> None:
        """Connect, and find the queue."""
        await self._forget()
        await self._connection.open()

    async def _forget(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._idle is not None:
            self._idle.cancel()
        self._channel = self._queue = self._consumer = None
        self._prefetch = self._lent = 0
        self._fetched.clear()
        self._arrived.clear()

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """What the consumer brought; it fetches as much ahead as is asked for, and not more."""
        limit = max(1, min(BATCH, limit))
        deadline = time.monotonic() + wait_s
        self._receivers += 1
        try:
            await self._consume(1 if self._spec.ordered else self._lent + limit)
            while not self._fetched and (left := deadline - time.monotonic()) > 0:
                self._arrived.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), left)
                self._connection.connection  # noqa: B018 - raises when it is closed
                if self._channel is None or self._channel.is_closed:
                    await self._consume(self._prefetch)
        finally:
            self._receivers -= 1
            self._suspend_later()
        taken = [self._fetched.popleft() for _ in range(min(limit, len(self._fetched)))]
        self._lent += len(taken)
        group = self._spec.queue if self._spec.ordered else None
        return [from_amqp(raw, uuid.uuid4().hex, group) for raw in taken]

    async def _consume(self, wanted: int) -> None:
        """Have a consumer that fetches `wanted` messages or up to twice as many."""
        async with self._consuming:
            open_channel = self._channel is not None and not self._channel.is_closed
            if open_channel and self._consumer is not None and self._prefetch >= wanted:
                return
            with translated(self._spec.queue):
                if not open_channel:
                    self._fetched.clear()  # they went back when their channel closed
                    self._lent = 0
                    self._channel = await self._connection.channel()
                    self._channel.close_callbacks.add(lambda *_: self._wake())
                    self._queue = await self._channel.get_queue(self._spec.queue, ensure=False)
                    self._consumer = None
                assert self._channel is not None
                assert self._queue is not None
                self._prefetch = (
                    1 if self._spec.ordered else min(_MAX_PREFETCH, 1 << (wanted - 1).bit_length())
                )
                await self._channel.set_qos(prefetch_count=self._prefetch, timeout=CALL_S)
                earlier = self._consumer
                self._consumer = await self._queue.consume(self._take, timeout=CALL_S)
                if earlier is not None:  # the limit is each consumer's own
                    await self._queue.cancel(earlier, timeout=CALL_S)

    async def _take(self, raw: AbstractIncomingMessage) -> None:
        self._fetched.append(raw)
        self._arrived.set()

    def _suspend_later(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._suspend)

    def _suspend(self) -> None:
        if self._receivers == 0 and self._consumer is not None:
            self._start(self._stop_consuming())

    async def _stop_consuming(self) -> None:
        async with self._consuming:
            consumer, self._consumer = self._consumer, None
            if consumer is None or self._queue is None or self._receivers:
                self._consumer = consumer
                return
            with contextlib.suppress(*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError):
                await self._queue.cancel(consumer, timeout=CALL_S)
                for _ in range(3):  # what came before the answer is handed over by tasks of the client
                    await asyncio.sleep(0)
                while self._fetched and not self._receivers:
                    await self._put_back(self._fetched.popleft())

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def acknowledge(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Returns those whose channel is closed: they are in the queue again."""
        lost = []
        for message in messages:
            raw = _raw(message)
            try:
                await raw.ack()
            except (*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError):
                lost.append(message)
            else:
                self._lent -= 1
        self._settled_at = time.monotonic()
        return lost

    async def retry(self, message: Message, delay_s: float) -> None:
        """Publish it once more with its attempts, to return after the delay; then acknowledge it."""
        raw = _raw(message)
        if message.group is not None:
            self._start(self._return_later(raw, delay_s))
            return
        delay_ms = round(min(delay_s, MAX_DELAY_S) * 1000)
        if delay_ms <= 0:
            await self._connection.publish(again(raw, message, 0), self._spec.queue)
        else:
            name, arguments = retry_queue(self._spec.queue, delay_ms)
            await self._connection.publish(again(raw, message, delay_ms), name, arguments)
        await self.acknowledge([message])

    async def _return_later(self, raw: AbstractIncomingMessage, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self._return([raw])

    async def _put_back(self, raw: AbstractIncomingMessage) -> None:
        """Return a delivery that was not tried, without its being counted: requeued, it would be."""
        if self._spec.ordered:
            await raw.nack(requeue=True)
            return
        try:
            await self._connection.publish(unchanged(raw), self._spec.queue)
        except BrokerError:
            await raw.nack(requeue=True)
        else:
            await raw.ack()

    async def release(self, messages: Sequence[Message]) -> None:
        """Published once more, at the queue's end. In an ordered source back to its place, and counted."""
        for message in messages:
            with contextlib.suppress(*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError):
                await self._put_back(_raw(message))
                self._lent -= 1

    async def _return(self, raws: Sequence[AbstractIncomingMessage]) -> None:
        for raw in raws:
            with contextlib.suppress(*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError):
                await raw.nack(requeue=True)  # a closed channel has returned it already
                self._lent -= 1

    async def extend(self, messages: Sequence[Message], seconds: float) -> None:
        """Nothing to do: there is no lease."""

    async def backlog(self) -> Backlog:
        """Ready messages and those that wait for a retry; RabbitMQ does not tell the age of the oldest."""
        return Backlog(messages=await self._connection.count())

    async def browse(self, limit: int) -> list[Message]:
        """Fetched and returned, which a quorum queue counts as a delivery."""
        found: list[Message] = []
        with translated(self._spec.queue):
            channel = await self._connection.channel()
            queue = await channel.get_queue(self._spec.queue, ensure=False)
            while len(found) < limit:
                raw = await queue.get(fail=False, timeout=CALL_S)
                if raw is None:
                    break
                found.append(from_amqp(raw, uuid.uuid4().hex, None))
            for message in reversed(found):
                await _raw(message).nack(requeue=True)
            await channel.close()
        return found

    async def close(self) -> None:
        """Put back what was fetched ahead, and end the connection; what was lent goes back by that."""
        self._receivers = 0
        if time.monotonic() - self._settled_at < _HANDOVER_S:
            await asyncio.sleep(_HANDOVER_S)
        with contextlib.suppress(BrokerError):
            await self._stop_consuming()
        await self._connection.close()
        await self._forget()


class RabbitmqDestination:
    """A queue as a destination, through the default exchange."""

    def __init__(self, spec: RabbitmqQueue, settings: BrokerSettings) -> None:
        self._connection = RabbitmqConnection(spec, settings, lambda: None)

    @property
    def address(self) -> str:
        """`rabbitmq:QUEUE`."""
        return self._connection.address

    async def open(self) -> None:
        """Connect, and find the queue."""
        await self._connection.open()

    async def publish(self, message: OutgoingMessage) -> None:
        """Publish one persistent message, and wait for the broker's confirm."""
        await self._connection.publish(to_amqp(message), self._connection.spec.queue)

    async def close(self) -> None:
        """End the connection."""
        await self._connection.close()


def _raw(message: Message) -> AbstractIncomingMessage:
    assert isinstance(message.receipt, AbstractIncomingMessage)
    return message.receipt
