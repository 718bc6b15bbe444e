"""NATS JetStream against nats-server."""

import nats
import nats.js.api
import pytest

from tests.triggers.brokers import PASSWORD, USERNAME, WRONG, BrokerProcess, nats_server, running, unique
from tests.triggers.full_dead_letters import FullDeadLetterContract
from tests.triggers.kills import KillContract
from tests.triggers.source_contract import LEASE_S, SourceContract
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import NatsStream, QueueRef


class Nats:
    durable = True
    refuses_size = 2_000_000

    def __init__(self, process: BrokerProcess) -> None:
        self._process = process
        self.start, self.kill = process.start, process.kill

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._process.port}"

    async def _stream(self, subjects: list[str], name: str) -> None:
        client = await nats.connect(self.url, user=USERNAME, password=PASSWORD)
        await client.jetstream().add_stream(name=name, subjects=subjects)
        await client.close()

    async def full_queue(self) -> QueueRef:
        name = unique("stream")
        client = await nats.connect(self.url, user=USERNAME, password=PASSWORD)
        await client.jetstream().add_stream(
            name=name, subjects=[name], max_msgs=1, discard=nats.js.api.DiscardPolicy.NEW
        )
        await client.jetstream().publish(name, b"an older one")
        await client.close()
        return QueueRef(nats=NatsStream(stream=name, url=self.url))

    async def make_room(self, ref: QueueRef) -> None:
        assert ref.nats is not None
        client = await nats.connect(self.url, user=USERNAME, password=PASSWORD)
        await client.jetstream().purge_stream(ref.nats.stream)
        await client.close()

    async def queue(self) -> QueueRef:
        name = unique("stream")
        await self._stream([name], name)
        return QueueRef(nats=NatsStream(stream=name, url=self.url))

    async def ordered_queue(self) -> QueueRef:
        name = unique("stream")
        await self._stream([f"{name}.*"], name)
        return QueueRef(nats=NatsStream(stream=name, url=self.url, ordered=True))

    def missing_queue(self) -> QueueRef:
        return QueueRef(nats=NatsStream(stream="missing", url=self.url))

    def settings(self, password: str = PASSWORD) -> BrokerSettings:
        environment = {"NATS_USERNAME": USERNAME, "NATS_PASSWORD": password}
        return BrokerSettings(lease_s=LEASE_S, environment=environment)

    def wrong_settings(self) -> tuple[BrokerSettings, str]:
        return self.settings(WRONG), WRONG


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(nats_server(tmp_path_factory.mktemp("nats"))) as process:
        yield process


class TestNats(SourceContract, KillContract, FullDeadLetterContract):
    @pytest.fixture
    def broker(self, server) -> Nats:
        return Nats(server)
