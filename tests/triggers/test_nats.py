"""NATS JetStream against nats-server."""

import shutil
from datetime import UTC, datetime

import nats
import nats.js.api
import pytest

from knative.local.certificate_authority import CertificateAuthority
from tests.triggers.brokers import PASSWORD, USERNAME, WRONG, BrokerProcess, nats_server, running, unique
from tests.triggers.full_dead_letters import FullDeadLetterContract
from tests.triggers.kills import KillContract
from tests.triggers.source_contract import LEASE_S, SourceContract
from transport.mutual_tls import MutualTls
from triggers.messages import OutgoingMessage
from triggers.sources.base import BrokerError
from triggers.sources.factory import make_destination, make_source
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


@pytest.fixture
def certified(tmp_path) -> CertificateAuthority:
    made = CertificateAuthority(tmp_path / "authority")
    made.renew(datetime.now(UTC))
    return made


async def test_tls_and_a_password_come_from_a_mounted_secret(tmp_path, certified):
    """The Secret has what cert-manager writes, and user and password beside it."""
    secret = tmp_path / "secrets" / "nats"
    shutil.copytree(certified.clients, secret)
    (secret / "username").write_text(USERNAME)
    (secret / "password").write_text(PASSWORD + "\n")
    environment = {"PILOTLIGHT_TRIGGER_SECRETS": str(secret.parent)}
    settings = BrokerSettings(lease_s=LEASE_S, environment=environment)
    with running(nats_server(tmp_path, certified.replicas)) as server:
        url = f"tls://127.0.0.1:{server.port}"
        trust = MutualTls.client(certified.clients).context
        client = await nats.connect(url, user=USERNAME, password=PASSWORD, tls=trust)
        await client.jetstream().add_stream(name="orders", subjects=["orders"])
        await client.close()
        ref = QueueRef(nats=NatsStream(stream="orders", url=url, secret="nats"))
        source, destination = make_source(ref, settings), make_destination(ref, settings)
        await source.open()
        await destination.open()
        await destination.publish(OutgoingMessage("1", b"encrypted"))
        [got] = await source.receive(1, 10)
        assert got.body == b"encrypted"
        await source.acknowledge([got])
        await destination.close()
        await source.close()

        # A server of another authority is not believed, and nothing is sent to it.
        foreign = CertificateAuthority(tmp_path / "foreign")
        foreign.renew(datetime.now(UTC))
        shutil.copy(foreign.clients / "ca.crt", secret / "ca.crt")
        suspicious = make_source(ref, settings)
        with pytest.raises(BrokerError, match="certificate") as raised:
            await suspicious.open()
        assert PASSWORD not in str(raised.value)
        await suspicious.close()
