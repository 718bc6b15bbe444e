"""Kafka: a consumer group whose progress, attempts included, is kept with its committed offsets.

Messages of one key, or of one partition, are lent one at a time; one that failed is kept here for its delay,
and those behind it wait. Messages of other keys go on, and are not delivered again after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from triggers.messages import Backlog, Message, OutgoingMessage
from triggers.sources.base import BrokerError, BrokerUnavailableError, Limits
from triggers.sources.group_order import GroupOrder
from triggers.sources.kafka_client import (
    CALL_S,
    RebalancingError,
    check_topic,
    configuration,
    error_of,
    translated,
)
from triggers.sources.kafka_consumer import Fetched, GroupMember

if TYPE_CHECKING:
    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import KafkaTopic

T = TypeVar("T")

BATCH: Final = 500
_ID_HEADER: Final = "message-id"
_REBALANCE_PAUSE_S: Final = 0.05
_STARTED_S: Final = 1.0
"""An attempt that takes longer is noted while it runs, so that it counts even if this process is killed."""


@dataclass(slots=True, eq=False)
class _Delivery:
    """A message with what this process knows of it."""

    fetched: Fetched
    order_group: str
    attempt: int
    lent_at: float | None = None

    @property
    def partition(self) -> int:
        return self.fetched.raw.partition() or 0

    @property
    def offset(self) -> int:
        return self.fetched.raw.offset() or 0


class KafkaSource:
    """A topic as a source, read by a consumer group."""

    def __init__(self, spec: KafkaTopic, settings: BrokerSettings) -> None:
        self._spec = spec
        self._settings = settings
        self._member: GroupMember | None = None
        self._order: GroupOrder[_Delivery] = GroupOrder(lambda delivery: delivery.offset)
        self._lent: dict[int, _Delivery] = {}
        self._changed = asyncio.Event()
        self._uncommitted: set[int] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._committing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """`kafka:TOPIC`."""
        return f"kafka:{self._spec.topic}"

    @property
    def limits(self) -> Limits:
        """No lease: a message is lent for as long as this process is a member of the group."""
        return Limits(batch=BATCH, ordered=True)

    async def open(self) -> None:
        """Find the topic; the group is joined by the first `receive`, and a member that is there stays."""
        loop = asyncio.get_running_loop()
        if self._member is None:
            self._member = GroupMember(
                self._spec,
                self._settings,
                lambda found: self._call(loop, self._arrive, found),
                lambda: self._call(loop, self._check),
            )
            try:
                await self._run(check_topic, self._member.consumer, self._spec.topic, None)
            except BrokerError as error:
                member, self._member = self._member, None
                known = member.error
                await self._run(member.consumer.close)
                if known is not None and isinstance(error, BrokerUnavailableError):
                    raise known from None
                raise
            return
        await self._between_polls(check_topic, self._member.consumer, self._spec.topic, self._member.error)
        self._member.error = None

    @staticmethod
    def _call(loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(function, *arguments)

    @staticmethod
    async def _run(function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(function, *arguments)

    async def _between_polls(self, function: Callable[..., T], *arguments: Any) -> T:
        member = self._require()
        if not member.joined:
            return await self._run(function, *arguments)
        return await asyncio.wrap_future(member.submit(lambda: function(*arguments)))

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _require(self) -> GroupMember:
        if self._member is None:
            raise BrokerUnavailableError(f"{self._spec.topic}: the connection to Kafka is closed")
        return self._member

    def _arrive(self, found: list[Fetched]) -> None:
        member = self._member
        for fetched in found:
            if member is not None and member.has(fetched):
                delivery = _Delivery(fetched, self._order_group(fetched.raw), 0)
                self._order.add(delivery.order_group, delivery)
        self._changed.set()

    def _check(self) -> None:
        """The partitions or the state of the connection changed: messages of lost partitions are dropped."""
        member = self._member
        if member is not None:
            self._order.drop(lambda delivery: not member.has(delivery.fetched))
        self._changed.set()

    def _order_group(self, raw: KafkaMessage) -> str:
        key = raw.key() if self._spec.order == "key" else None
        if self._spec.order == "partition":
            return f"{raw.partition()}"
        if key is None:
            return f"{raw.partition()}:#{raw.offset()}"  # no other message has it: there is no order
        return f"{raw.partition()}:{_text(key)}"

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """What the member fetched, one message of each key or partition."""
        deadline = time.monotonic() + wait_s
        if not self._require().joined:
            self._require().start()
            self._start(self._note_long_attempts())
        while True:
            member = self._require()
            self._changed.clear()
            taken = [one for one in self._order.take(max(1, min(BATCH, limit))) if member.has(one.fetched)]
            if taken:
                return [self._lend(delivery) for delivery in taken]
            if member.error is not None:
                raise member.error
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _lend(self, delivery: _Delivery) -> Message:
        raw = delivery.fetched.raw
        delivery.attempt = delivery.fetched.progress.attempts(delivery.offset) + 1
        delivery.lent_at = time.monotonic()
        self._lent[id(delivery)] = delivery
        key = raw.key()
        group = None if key is None else _text(key)
        if self._spec.order == "partition":
            group = f"{raw.partition()}"
        return _message(raw, self._spec.topic, delivery.attempt, group, delivery)

    async def acknowledge(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Done when the progress is committed; returns those of partitions that went to others."""
        member = self._require()
        lost, changed = [], set()
        with member.lock:
            for message in messages:
                delivery = _delivery(message)
                self._lent.pop(id(delivery), None)
                if not member.has(delivery.fetched):
                    lost.append(message)
                else:
                    delivery.fetched.progress.finish(delivery.offset)
                    changed.add(delivery.partition)
                self._order.settle(delivery.order_group, delivery.offset)
        self._changed.set()
        await self._commit(changed)
        return lost

    async def _commit(self, partitions: Iterable[int]) -> None:
        """Commit, together with what others ask for while a commit is under way."""
        self._uncommitted.update(partitions)
        if not self._uncommitted:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())
        await waiting

    async def _commit_all(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)
            waiting, self._waiting = self._waiting, []
            partitions, self._uncommitted = self._uncommitted, set()
            error: BrokerError | None = None
            try:
                await self._committed_soon(partitions)
            except BrokerError as raised:
                error = raised
                self._uncommitted |= partitions
            for future in waiting:
                if future.cancelled():
                    continue
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    async def _committed_soon(self, partitions: set[int]) -> None:
        """Commit; while the group rebalances, again, for those partitions that stay."""
        deadline = time.monotonic() + CALL_S
        while True:
            try:
                await self._between_polls(self._require().commit, partitions)
            except RebalancingError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_REBALANCE_PAUSE_S)
            else:
                return

    async def _note_long_attempts(self) -> None:
        while True:
            await asyncio.sleep(_STARTED_S)
            member, before = self._require(), time.monotonic() - _STARTED_S
            changed = set()
            with member.lock:
                for delivery in self._lent.values():
                    noted = (
                        delivery.lent_at is not None
                        and delivery.lent_at < before
                        and member.has(delivery.fetched)
                        and delivery.fetched.progress.note_attempt(delivery.offset, delivery.attempt)
                    )
                    if noted:
                        changed.add(delivery.partition)
            if changed:
                with contextlib.suppress(BrokerError):  # the next commit has it
                    await self._commit(changed)

    async def retry(self, message: Message, delay_s: float) -> None:
        """Kept here for its delay; the attempt is committed."""
        member, delivery = self._require(), _delivery(message)
        self._lent.pop(id(delivery), None)
        if not member.has(delivery.fetched):
            self._order.settle(delivery.order_group, delivery.offset)
            return
        with member.lock:
            delivery.fetched.progress.note_attempt(delivery.offset, delivery.attempt)
        asyncio.get_running_loop().call_later(max(0.0, delay_s), self._again, delivery)
        await self._commit([delivery.partition])

    def _again(self, delivery: _Delivery) -> None:
        member = self._member
        if member is not None and member.has(delivery.fetched):
            self._order.add(delivery.order_group, delivery)
        else:
            self._order.settle(delivery.order_group, delivery.offset)
        self._changed.set()

    async def release(self, messages: Sequence[Message]) -> None:
        """To their old places, without an attempt."""
        for message in messages:
            delivery = _delivery(message)
            self._lent.pop(id(delivery), None)
            self._again(delivery)

    async def extend(self, messages: Sequence[Message], seconds: float) -> None:
        """Nothing to do: the member polls and is heard of whatever becomes of its messages."""

    async def backlog(self) -> Backlog:
        """Messages behind the committed offsets of all partitions that are not done and not lent."""
        return await self._between_polls(self._backlog, self._require())

    def _backlog(self, member: GroupMember) -> Backlog:
        topic = self._spec.topic
        with translated(topic):
            waiting = -len(self._lent)
            for one in self._committed(member.consumer):
                low, high = member.consumer.get_watermark_offsets(
                    TopicPartition(topic, one.partition), timeout=CALL_S
                )
                waiting += high - max(low, one.offset if one.offset >= 0 else low)
        waiting -= sum(member.done_ahead())
        stamps = [_milliseconds(delivery.fetched.raw) for delivery in self._order.held()]
        oldest = min((stamp for stamp in stamps if stamp is not None), default=None)
        age_s = None if oldest is None else max(0.0, time.time() - oldest / 1000)
        return Backlog(messages=max(0, waiting), oldest_age_s=age_s)

    def _committed(self, consumer: Consumer) -> list[TopicPartition]:
        topic = self._spec.topic
        numbers = check_topic(consumer, topic, None)
        partitions = [TopicPartition(topic, number) for number in numbers]
        return list(consumer.committed(partitions, timeout=CALL_S))

    async def browse(self, limit: int) -> list[Message]:
        """A plain read from the committed offsets on, which changes nothing."""
        starts = await self._between_polls(self._committed, self._require().consumer)
        return await self._run(self._browse, starts, limit)

    def _browse(self, starts: list[TopicPartition], limit: int) -> list[Message]:
        reader = Consumer(
            {
                **configuration(self._spec, self._settings),
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        found: list[Message] = []
        try:
            with translated(self._spec.topic):
                for one in starts:
                    one.offset = one.offset if one.offset >= 0 else OFFSET_BEGINNING
                reader.assign(starts)
                ended: set[int] = set()
                deadline = time.monotonic() + CALL_S
                while len(found) < limit and len(ended) < len(starts) and time.monotonic() < deadline:
                    raw = reader.poll(0.5)
                    if raw is None:
                        continue
                    error = raw.error()
                    if error is None:
                        found.append(_message(raw, self._spec.topic, None, None, None))
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        ended.add(raw.partition() or 0)
                    else:
                        raise KafkaException(error)
        finally:
            reader.close()
        return sorted(found, key=lambda one: one.enqueued or datetime.now(UTC))

    async def close(self) -> None:
        """Leave the group; what is not done comes to another member."""
        member, self._member = self._member, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if member is not None:
            if self._uncommitted:
                with contextlib.suppress(BrokerError):
                    await asyncio.wrap_future(member.submit(lambda: member.commit(self._uncommitted)))
            await self._run(member.stop)
        self._order.clear()
        self._lent.clear()


class KafkaDestination:
    """A topic as a destination."""

    def __init__(self, spec: KafkaTopic, settings: BrokerSettings) -> None:
        self._spec = spec
        self._settings = settings
        self._producer: Producer | None = None
        self._error: BrokerError | None = None
        self._polling: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """`kafka:TOPIC`."""
        return f"kafka:{self._spec.topic}"

    async def open(self) -> None:
        """Find the topic."""
        if self._producer is None:
            self._producer = Producer(
                {
                    **configuration(self._spec, self._settings),
                    "enable.idempotence": True,
                    "message.timeout.ms": round(CALL_S * 1000),
                    "error_cb": self._on_error,
                }
            )
        await asyncio.to_thread(check_topic, self._producer, self._spec.topic, self._error)
        self._error = None

    def _on_error(self, error: KafkaError) -> None:
        self._error = error_of(error, self._spec.topic)

    async def publish(self, message: OutgoingMessage) -> None:
        """Produce one message, and wait until all replicas that are in sync have it."""
        producer = self._producer
        if producer is None:
            raise BrokerUnavailableError(f"{self._spec.topic}: the connection to Kafka is closed")
        loop = asyncio.get_running_loop()
        delivered = loop.create_future()

        def settle(error: KafkaError | None) -> None:
            if not delivered.done():
                if error is None:
                    delivered.set_result(None)
                else:
                    delivered.set_exception(error_of(error, self._spec.topic))

        headers: list[tuple[str, str | bytes | None]] = [
            (_ID_HEADER, message.id),
            *message.attributes.items(),
        ]
        with translated(self._spec.topic):
            producer.produce(
                self._spec.topic,
                value=message.body,
                key=message.group,
                headers=headers,
                on_delivery=lambda error, _: loop.call_soon_threadsafe(settle, error),
            )
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(producer))
        await delivered

    @staticmethod
    async def _poll(producer: Producer) -> None:
        """Answers are handed over by polling, for as long as some are missing."""
        while len(producer):
            await asyncio.to_thread(producer.poll, 0.1)

    async def close(self) -> None:
        """Wait for answers under way."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await asyncio.to_thread(producer.flush, CALL_S)
        if self._polling is not None:
            await self._polling


def _message(
    raw: KafkaMessage, topic: str, attempt: int | None, group: str | None, receipt: object
) -> Message:
    attributes = {name: _text(value) for name, value in raw.headers() or [] if value is not None}
    milliseconds = _milliseconds(raw)
    content_type = next((value for name, value in attributes.items() if name.lower() == "content-type"), None)
    if content_type is not None:
        attributes["content-type"] = content_type
    return Message(
        id=attributes.pop(_ID_HEADER, "") or f"{topic}:{raw.partition()}:{raw.offset()}",
        body=_bytes(raw.value()),
        attributes=attributes,
        attempt=attempt,
        enqueued=None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC),
        group=group,
        receipt=receipt,
    )


def _milliseconds(raw: KafkaMessage) -> int | None:
    _, milliseconds = raw.timestamp()
    return milliseconds if milliseconds > 0 else None


def _delivery(message: Message) -> _Delivery:
    assert isinstance(message.receipt, _Delivery)
    return message.receipt


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
