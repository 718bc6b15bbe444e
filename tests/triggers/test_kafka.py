"""Kafka against librdkafka's built-in mock cluster."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.triggers import kafka_mock_cluster
from tests.triggers.brokers import unique
from tests.triggers.kills import KillContract
from tests.triggers.source_contract import (
    LEASE_S,
    SourceContract,
    another,
    message,
    opened,
    publish,
    receive,
)
from triggers.sources.kafka_progress import PartitionProgress
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import KafkaTopic, QueueRef


class MockCluster:
    """The cluster's process; its broker goes down and comes back with what it has."""

    durable = True
    refuses_size = 2_000_000

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(kafka_mock_cluster.__file__))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().strip()

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == "ok"

    def topic(self, partitions: int = 2) -> str:
        name = unique("topic")
        self._tell(f"topic {name} {partitions}")
        return name

    async def queue(self) -> QueueRef:
        return QueueRef(kafka=KafkaTopic(topic=self.topic(), bootstrap_servers=self.servers))

    async def ordered_queue(self) -> QueueRef:
        return await self.queue()

    def missing_queue(self) -> QueueRef:
        return QueueRef(kafka=KafkaTopic(topic="missing", bootstrap_servers=self.servers))

    def settings(self) -> BrokerSettings:
        return BrokerSettings(lease_s=LEASE_S, environment={})

    def wrong_settings(self) -> None:
        return None  # the mock cluster lets everyone in

    def kill(self) -> None:
        self._tell("down")

    def start(self) -> None:
        self._tell("up")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def cluster():
    cluster = MockCluster()
    yield cluster
    cluster.close()


class TestKafka(SourceContract, KillContract):
    @pytest.fixture
    def broker(self, cluster) -> MockCluster:
        return cluster

    async def test_extend_keeps_a_message_from_others(self, broker: MockCluster):
        # A second member gets one of two partitions, and with it what is not done there: that of the message
        # stays where it is if there is only one.
        one = QueueRef(kafka=KafkaTopic(topic=broker.topic(1), bootstrap_servers=broker.servers))

        class OnePartition:
            settings = staticmethod(broker.settings)

            async def queue(self) -> QueueRef:
                return one

        await super().test_extend_keeps_a_message_from_others(OnePartition())

    async def test_what_is_done_behind_a_waiting_message_stays_done_after_a_restart(
        self, broker: MockCluster
    ):
        ref = QueueRef(kafka=KafkaTopic(topic=broker.topic(1), bootstrap_servers=broker.servers))
        async with opened(broker, ref) as (source, destination):
            await publish(destination, *(message(body, group=body.decode()) for body in (b"a", b"b", b"c")))
            got = {one.body: one for one in await receive(source, 3)}
            await source.retry(got[b"a"], 60)
            assert list(await source.acknowledge([got[b"b"]])) == []
        async with another(broker, ref) as source:
            again = {one.body: one.attempt for one in await receive(source, 2)}
            assert again == {b"a": 2, b"c": 1}

    async def test_an_attempt_that_ended_with_its_process_counts(self, broker: MockCluster):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination):
            await publish(destination, message())
            await receive(source)
            await asyncio.sleep(2.5)  # longer than an attempt has to last to be noted
        async with another(broker, ref) as source:
            assert [one.attempt for one in await receive(source)] == [2]

    async def test_a_partition_may_be_the_group(self, broker: MockCluster):
        spec = KafkaTopic(topic=broker.topic(1), bootstrap_servers=broker.servers, order="partition")
        async with opened(broker, QueueRef(kafka=spec)) as (source, destination):
            await publish(destination, message(b"1", group="x"), message(b"2", group="y"))
            [first] = await receive(source)
            assert await source.receive(10, 0.5) == []
            await source.acknowledge([first])
            assert [one.body for one in await receive(source)] == [b"2"]


def test_progress_is_what_the_metadata_says():
    progress = PartitionProgress()
    assert all(progress.fetched(offset) for offset in range(10, 20))
    progress.finish(10)
    for offset in (12, 13, 19):
        progress.finish(offset)
    progress.note_attempt(11, 3)
    assert progress.position == 11
    again = PartitionProgress.from_metadata(11, progress.metadata())
    assert [offset for offset in range(11, 20) if again.fetched(offset)] == [11, 14, 15, 16, 17, 18]
    assert (again.attempts(11), again.attempts(14)) == (3, 0)
    for offset in (11, 14, 15, 16, 17, 18):
        again.finish(offset)
    assert (again.position, again.done_ahead) == (20, 0)


@pytest.mark.parametrize(
    "text", [None, "", "not JSON", "[]", '{"v": 2}', '{"v": 1, "d": "zz", "a": {}}', '{"v": 1}']
)
def test_metadata_of_others_counts_as_nothing_done(text):
    progress = PartitionProgress.from_metadata(5, text)
    assert progress.fetched(5)


def test_the_metadata_fits_a_broker():
    progress = PartitionProgress()
    for offset in range(10_000):
        if progress.full:
            break
        progress.fetched(offset)
        progress.note_attempt(offset, 999)
        if offset % 40:
            progress.finish(offset)
    assert progress.full
    assert len(progress.metadata()) < 4096


def test_offsets_that_are_not_there_hold_nothing_up():
    progress = PartitionProgress()
    for offset in (0, 5, 9):  # a compacted topic
        progress.fetched(offset)
        progress.finish(offset)
    assert progress.position == 10
