"""The brokers of the tests, for benchmarks: each with what a source on it needs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.triggers import brokers
from tests.triggers.moto_server import aws_environment, moto_server
from tests.triggers.test_kafka import MockCluster
from tests.triggers.test_nats import Nats
from tests.triggers.test_rabbitmq import Rabbitmq
from tests.triggers.test_redis import Valkey
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef

KINDS = ("sqs", "rabbitmq", "nats", "redis", "kafka")


class _Queues(Protocol):
    durable: bool

    async def queue(self) -> QueueRef: ...
    def settings(self) -> BrokerSettings: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


@dataclass(frozen=True)
class RunningBroker:
    """A broker, and the variables with which its clients find their way in."""

    queues: _Queues
    environment: dict[str, str]

    @property
    def durable(self) -> bool:
        """Whether it may be killed: it keeps what it was given."""
        return self.queues.durable

    @property
    def kill(self) -> Callable[[], None]:
        """End its process at once."""
        return self.queues.kill

    @property
    def start(self) -> Callable[[], None]:
        """Start it again."""
        return self.queues.start

    async def queue(self) -> QueueRef:
        """A new queue."""
        return await self.queues.queue()

    def settings(self) -> BrokerSettings:
        """With the right credentials."""
        return self.queues.settings()

    @staticmethod
    def free_port() -> int:
        """A port of the loopback that nobody has."""
        return brokers.free_port()


@contextlib.contextmanager
def running_broker(kind: str) -> Iterator[RunningBroker | None]:
    """Run a broker of this kind; None: it is not on this machine."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        queues: Any
        environment: dict[str, str] = {}
        if kind == "sqs":
            queues = stack.enter_context(moto_server(folder))
            environment = {**aws_environment(), "AWS_ENDPOINT_URL": queues.endpoint}
            os.environ.update(environment)  # boto3 in this process reads it, too
        elif kind == "rabbitmq":
            if brokers.rabbitmq_home() is None:
                yield None
                return
            queues = Rabbitmq(stack.enter_context(brokers.rabbitmq(folder)))
        elif kind == "nats":
            queues = Nats(stack.enter_context(brokers.running(brokers.nats_server(folder))))
        elif kind == "redis":
            queues = Valkey(stack.enter_context(brokers.running(brokers.valkey(folder))))
        else:
            queues = MockCluster()
            stack.callback(queues.close)
        settings = queues.settings().environment
        environment |= {
            name: value
            for name, value in settings.items()
            if name.startswith(("RABBITMQ_", "NATS_", "REDIS_", "KAFKA_"))
        }
        yield RunningBroker(queues, environment)
