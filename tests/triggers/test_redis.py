"""Redis Streams against Valkey."""

import pytest
import redis

from tests.triggers.brokers import PASSWORD, USERNAME, WRONG, BrokerProcess, running, unique, valkey
from tests.triggers.source_contract import LEASE_S, SourceContract
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef, RedisStream


class Valkey:
    durable = True
    refuses_size = None

    def __init__(self, process: BrokerProcess) -> None:
        self._process = process
        self.start, self.kill = process.start, process.kill

    def _ref(self, name: str) -> QueueRef:
        return QueueRef(redis=RedisStream(stream=name, url=f"redis://127.0.0.1:{self._process.port}/0"))

    async def queue(self) -> QueueRef:
        return self._ref(unique("stream"))

    async def ordered_queue(self) -> None:
        return None

    def missing_queue(self) -> QueueRef:
        # A stream comes with its first entry, so none is ever missing; but a key may hold something else.
        name = unique("text")
        with redis.Redis(port=self._process.port, username=USERNAME, password=PASSWORD) as client:
            client.set(name, "no stream")
        return self._ref(name)

    def settings(self, password: str = PASSWORD) -> BrokerSettings:
        environment = {"REDIS_USERNAME": USERNAME, "REDIS_PASSWORD": password}
        return BrokerSettings(lease_s=LEASE_S, environment=environment)

    def wrong_settings(self) -> tuple[BrokerSettings, str]:
        return self.settings(WRONG), WRONG


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(valkey(tmp_path_factory.mktemp("valkey"))) as process:
        yield process


class TestRedisStreams(SourceContract):
    @pytest.fixture
    def broker(self, server) -> Valkey:
        return Valkey(server)
