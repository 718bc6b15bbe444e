"""Redis Streams against Valkey."""

import json

import pytest
import redis

from tests.triggers.brokers import PASSWORD, USERNAME, WRONG, BrokerProcess, running, unique, valkey
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
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef, RedisStream


class Valkey:
    durable = True
    refuses_size = None

    def __init__(self, process: BrokerProcess) -> None:
        self._process = process
        self.start, self.kill = process.start, process.kill

    def client(self) -> redis.Redis:
        return redis.Redis(port=self._process.port, username=USERNAME, password=PASSWORD)

    def _ref(self, name: str) -> QueueRef:
        return QueueRef(redis=RedisStream(stream=name, url=f"redis://127.0.0.1:{self._process.port}/0"))

    async def queue(self) -> QueueRef:
        return self._ref(unique("stream"))

    async def ordered_queue(self) -> None:
        return None

    def missing_queue(self) -> QueueRef:
        # A stream comes with its first entry, so none is ever missing; but a key may hold something else.
        name = unique("text")
        with self.client() as client:
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


class TestRedisStreams(SourceContract, KillContract):
    @pytest.fixture
    def broker(self, server) -> Valkey:
        return Valkey(server)

    async def test_entries_that_another_tool_read_and_left_are_adopted(self, broker: Valkey):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination):
            await publish(destination, message(b"left"))
            stream = ref.redis.stream
            with broker.client() as client:
                client.xreadgroup(source._group, "another-tool", {stream: ">"})
            [got] = await receive(source, within_s=LEASE_S + 10)
            assert (got.body, got.attempt) == (b"left", 2)
            await source.acknowledge([got])

    async def test_what_is_released_is_not_counted(self, broker: Valkey):
        async with opened(broker, await broker.queue()) as (source, destination):
            await publish(destination, message())
            for _ in range(3):
                [got] = await receive(source)
                assert got.attempt == 1
                await source.release([got])

    async def test_a_message_that_another_one_got_meanwhile_is_not_acknowledged(self, broker: Valkey):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination), another(broker, ref) as other:
            await publish(destination, message())
            [late] = await receive(source)
            [again] = await receive(other, within_s=LEASE_S + 10)
            assert list(await source.acknowledge([late])) == [late]
            assert list(await other.acknowledge([again])) == []

    async def test_an_entry_of_any_fields_becomes_a_json_object_and_done_ones_may_be_deleted(
        self, broker: Valkey
    ):
        spec = (await broker.queue()).redis.model_copy(update={"delete_done": True})
        ref = QueueRef(redis=spec)
        async with opened(broker, ref) as (source, _):
            with broker.client() as client:
                client.xadd(spec.stream, {"order": "7", "city": "Kaln\u00e4s"})
                [got] = await receive(source)
                assert json.loads(got.body) == {"order": "7", "city": "Kaln\u00e4s"}
                assert got.attributes == {"content-type": "application/json"}
                await source.acknowledge([got])
                assert client.xlen(spec.stream) == 0
