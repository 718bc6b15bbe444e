"""Kafka against librdkafka's built-in mock cluster."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.triggers import kafka_mock_cluster
from tests.triggers.brokers import unique
from tests.triggers.source_contract import LEASE_S, SourceContract
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


class TestKafka(SourceContract):
    @pytest.fixture
    def broker(self, cluster) -> MockCluster:
        return cluster
