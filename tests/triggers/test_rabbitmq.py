"""RabbitMQ against the server of Debian."""

import time

import aio_pika
import pytest

from tests.triggers.brokers import (
    PASSWORD,
    RABBITMQ_MISSING,
    USERNAME,
    WRONG,
    RabbitmqProcess,
    rabbitmq,
    rabbitmq_home,
    unique,
)
from tests.triggers.full_dead_letters import FullDeadLetterContract
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
from triggers.sources.base import BrokerUnavailableError
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef, RabbitmqQueue

pytestmark = pytest.mark.skipif(rabbitmq_home() is None, reason=RABBITMQ_MISSING)


ORDERED = {"x-single-active-consumer": True, "x-delivery-limit": 100}
"""Without a limit of deliveries, RabbitMQ before 4.0 puts what is returned to a quorum queue at its end."""


class Rabbitmq:
    durable = True
    refuses_size = 2_000_000

    def __init__(self, process: RabbitmqProcess) -> None:
        self._process = process
        self.start = process.start
        self._declared_at = 0.0

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self._process.port}/"

    async def queue(self, *, ordered: bool = False) -> QueueRef:
        name = unique("queue")
        async with await aio_pika.connect(
            self.url.replace("//", f"//{USERNAME}:{PASSWORD}@", 1)
        ) as connection:
            channel = await connection.channel()
            await channel.declare_queue(
                name, durable=True, arguments={"x-queue-type": "quorum", **(ORDERED if ordered else {})}
            )
        self._declared_at = time.monotonic()
        return QueueRef(rabbitmq=RabbitmqQueue(queue=name, url=self.url, ordered=ordered))

    async def full_queue(self) -> QueueRef:
        name = unique("queue")
        async with await aio_pika.connect(
            self.url.replace("//", f"//{USERNAME}:{PASSWORD}@", 1)
        ) as connection:
            channel = await connection.channel()
            limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
            await channel.declare_queue(name, durable=True, arguments=limits)
            await channel.default_exchange.publish(aio_pika.Message(b"an older one"), name)
        return QueueRef(rabbitmq=RabbitmqQueue(queue=name, url=self.url))

    async def make_room(self, ref: QueueRef) -> None:
        assert ref.rabbitmq is not None
        async with await aio_pika.connect(
            self.url.replace("//", f"//{USERNAME}:{PASSWORD}@", 1)
        ) as connection:
            channel = await connection.channel()
            await (await channel.get_queue(ref.rabbitmq.queue)).purge()

    def kill(self) -> None:
        # RabbitMQ 3.10 writes the registration of a new quorum queue a second later; killed before, it does not
        # find the queue's leader again.
        time.sleep(max(0.0, self._declared_at + 2 - time.monotonic()))
        self._process.kill()

    async def ordered_queue(self) -> None:
        return None  # a queue is one group: see below

    def missing_queue(self) -> QueueRef:
        return QueueRef(rabbitmq=RabbitmqQueue(queue="missing", url=self.url))

    def settings(self, password: str = PASSWORD) -> BrokerSettings:
        environment = {"RABBITMQ_USERNAME": USERNAME, "RABBITMQ_PASSWORD": password}
        return BrokerSettings(lease_s=LEASE_S, environment=environment)

    def wrong_settings(self) -> tuple[BrokerSettings, str]:
        return self.settings(WRONG), WRONG


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as process:
        yield process


class TestRabbitmq(SourceContract, KillContract, FullDeadLetterContract):
    @pytest.fixture
    def broker(self, server) -> Rabbitmq:
        return Rabbitmq(server)

    async def test_an_ordered_queue_waits_for_its_first_message(self, broker: Rabbitmq):
        ref = await broker.queue(ordered=True)
        async with opened(broker, ref) as (source, destination), another(broker, ref) as other:
            await publish(destination, *(message(body) for body in (b"1", b"2", b"3")))
            [first] = await receive(source)
            await source.retry(first, 0.5)
            assert await other.receive(1, 0.1) == [], "there is one active consumer"
            [again] = await receive(source)
            assert (again.body, again.id, again.attempt) == (b"1", first.id, 2)
            await source.acknowledge([again])
        order = []
        async with another(broker, ref) as source:
            while len(order) < 2:
                for one in await receive(source):
                    order.append(one.body)
                    await source.acknowledge([one])
        assert order == [b"2", b"3"]

    async def test_a_queue_without_counting_tells_of_one_attempt_before(self, broker: Rabbitmq):
        name = unique("classic")
        async with await aio_pika.connect(
            broker.url.replace("//", f"//{USERNAME}:{PASSWORD}@", 1)
        ) as connection:
            await (await connection.channel()).declare_queue(name, durable=True)
        ref = QueueRef(rabbitmq=RabbitmqQueue(queue=name, url=broker.url))
        async with opened(broker, ref) as (source, destination):
            await publish(destination, message())
            assert [one.attempt for one in await receive(source)] == [1]
        async with another(broker, ref) as source:
            [again] = await receive(source)
            assert again.attempt == 2
            await source.retry(again, 0)
            assert [one.attempt for one in await receive(source)] == [3]

    async def test_a_paused_source_leaves_what_it_fetched_ahead_to_others_without_an_attempt(
        self, broker: Rabbitmq
    ):
        ref = await broker.queue()
        async with opened(broker, ref) as (source, destination), another(broker, ref) as other:
            await source.receive(8, 0.1)  # it consumes now, up to eight
            await publish(destination, *(message() for _ in range(4)))
            got = await receive(other, 4, within_s=10)
            assert [one.attempt for one in got] == [1, 1, 1, 1]

    async def test_a_full_dead_letter_queue_is_an_error_that_passes(self, broker: Rabbitmq):
        name = unique("full")
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        async with await aio_pika.connect(
            broker.url.replace("//", f"//{USERNAME}:{PASSWORD}@", 1)
        ) as connection:
            await (await connection.channel()).declare_queue(name, durable=True, arguments=arguments)
        ref = QueueRef(rabbitmq=RabbitmqQueue(queue=name, url=broker.url))
        async with opened(broker, ref) as (_, destination):
            await publish(destination, message())
            with pytest.raises(BrokerUnavailableError, match="full"):
                await publish(destination, message(), message())
