"""A member of a consumer group: a thread that polls, and the progress of the partitions that it has.

The thread polls whatever becomes of the messages, so that a cold start of minutes does not cost the
membership. Partitions with too much outstanding are paused.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from triggers.sources.base import BrokerError
from triggers.sources.kafka_client import CALL_S, configuration, error_of, translated
from triggers.sources.kafka_progress import PartitionProgress

if TYPE_CHECKING:
    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import KafkaTopic

T = TypeVar("T")

MAX_OUTSTANDING: Final = 1000
"""Messages of one partition that are fetched and not done; it is paused above, and resumed below the half."""
_SHORTEST_SESSION_S: Final = 2.0
"""A broker may ask for more (`group.min.session.timeout.ms`, 6 s by default), and says so."""
_LONGEST_SESSION_S: Final = 45.0
_POLL_S: Final = 0.02
_BUSY_POLL_S: Final = 0.001
"""While calls come one after the other, as commits do: each of them waits for the end of a poll."""
_BUSY_S: Final = 0.1
_FETCH: Final = 500


@dataclass(frozen=True, slots=True)
class Fetched:
    """A message of a partition that this member has, or had."""

    progress: PartitionProgress
    raw: KafkaMessage


class GroupMember:
    """The consumer. `on_fetched` and `on_change` are called in its thread."""

    def __init__(
        self,
        spec: KafkaTopic,
        settings: BrokerSettings,
        on_fetched: Callable[[list[Fetched]], None],
        on_change: Callable[[], None],
    ) -> None:
        self._topic = spec.topic
        self._on_fetched = on_fetched
        self._on_change = on_change
        self._progress: dict[int, PartitionProgress] = {}
        self._paused: set[int] = set()
        self._stopping = threading.Event()
        self._called_at = 0.0
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self.lock = threading.RLock()
        self.error: BrokerError | None = None
        session_ms = round(min(_LONGEST_SESSION_S, max(_SHORTEST_SESSION_S, settings.lease_s)) * 1000)
        self._consumer = Consumer(
            {
                **configuration(spec, settings),
                "group.id": spec.group_name(settings.consumer),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                # Partitions that stay with a member are not interrupted when another one comes or goes.
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": session_ms // 6,
                "queued.max.messages.kbytes": 16_384,
                "fetch.wait.max.ms": 100,
                "error_cb": self._on_error,
            }
        )
        self._thread = threading.Thread(target=self._run, name=f"kafka-{spec.topic}", daemon=True)

    @property
    def consumer(self) -> Consumer:
        """The client. While the thread runs, only calls through `submit` use it."""
        return self._consumer

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run a call of the client between two polls.

        The client lets in one thread at a time, and one that polls in a loop keeps the others out.
        """
        future: Future[T] = Future()
        self._calls.put((call, future))
        if self._stopping.is_set() or not self.joined:
            self._run_calls()
        return future

    def _run_calls(self) -> None:
        while True:
            try:
                call, future = self._calls.get_nowait()
            except queue.Empty:
                return
            self._called_at = time.monotonic()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - raised where the result is awaited
                future.set_exception(error)

    @property
    def joined(self) -> bool:
        """Whether it has asked to be a member."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Join the group."""
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._thread.start()

    def stop(self) -> None:
        """Leave the group, after the last commit."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CALL_S)
        self._run_calls()
        self._consumer.close()

    def has(self, fetched: Fetched) -> bool:
        """Whether the message's partition is still ours, without interruption."""
        return self._progress.get(fetched.raw.partition() or 0) is fetched.progress

    def partitions(self) -> list[int]:
        """Those that are ours."""
        with self.lock:
            return sorted(self._progress)

    def done_ahead(self) -> list[int]:
        """For each partition of ours, the messages that are done behind one that is not."""
        with self.lock:
            return [progress.done_ahead for progress in self._progress.values()]

    def commit(self, partitions: Iterable[int]) -> None:
        """Write the progress of partitions, those that are still ours."""
        with self.lock:
            offsets = [self._offset(partition) for partition in partitions if partition in self._progress]
        offsets = [offset for offset in offsets if offset is not None]
        if offsets:
            with translated(self._topic):
                done = self._consumer.commit(offsets=offsets, asynchronous=False)
                for one in done or ():
                    if one.error is not None:
                        raise KafkaException(one.error)

    def _offset(self, partition: int) -> Any:
        progress = self._progress[partition]
        if progress.position is None:
            return None
        return TopicPartition(self._topic, partition, progress.position, progress.metadata())

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._run_calls()
            try:
                busy = time.monotonic() - self._called_at < _BUSY_S
                raws = [self._consumer.poll(_BUSY_POLL_S if busy else _POLL_S)]
                if raws[0] is not None:
                    raws += self._consumer.consume(_FETCH, 0)
            except (KafkaException, RuntimeError):
                self._stopping.wait(_POLL_S)
                continue
            self._take([raw for raw in raws if raw is not None])
            self._pause_and_resume()

    def _take(self, raws: list[KafkaMessage]) -> None:
        found: list[Fetched] = []
        with self.lock:
            for raw in raws:
                error = raw.error()
                if error is not None:
                    self._on_error(error)
                    continue
                progress = self._progress.get(raw.partition() or 0)
                if progress is not None and progress.fetched(raw.offset() or 0):
                    found.append(Fetched(progress, raw))
        if raws:
            self.error = None if found else self.error
        if found:
            self._on_fetched(found)

    def _pause_and_resume(self) -> None:
        with self.lock:
            full = {
                number
                for number, progress in self._progress.items()
                if progress.full
                or progress.outstanding >= (MAX_OUTSTANDING // (2 if number in self._paused else 1))
            }
        pause, resume = full - self._paused, self._paused - full
        self._paused = full
        try:
            if pause:
                self._consumer.pause([TopicPartition(self._topic, number) for number in pause])
            if resume:
                self._consumer.resume([TopicPartition(self._topic, number) for number in resume])
        except KafkaException:
            self._paused -= pause  # taken from us in this moment

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            committed = consumer.committed(partitions, timeout=CALL_S)
        except KafkaException as error:
            self._on_error(error.args[0])
            committed = []
        with self.lock:
            known = {one.partition: one for one in committed if one.offset >= 0}
            for one in partitions:
                found = known.get(one.partition)
                self._progress[one.partition] = (
                    PartitionProgress()
                    if found is None
                    else PartitionProgress.from_metadata(found.offset, found.metadata)
                )
        self.error = None
        self._on_change()

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self.commit([one.partition for one in partitions])
        except BrokerError as error:
            self.error = error  # what was done and not committed is delivered again
        self._forget(partitions)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        with self.lock:
            for one in partitions:
                self._progress.pop(one.partition, None)
                self._paused.discard(one.partition)
        self._on_change()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in {KafkaError._PARTITION_EOF, KafkaError._TRANSPORT, KafkaError._RESOLVE}:  # noqa: SLF001
            return  # one broker of several; when none is left, librdkafka says so
        self.error = error_of(error, self._topic)
        self._on_change()
