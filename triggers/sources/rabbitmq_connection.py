"""Connections to RabbitMQ, and aio-pika's exceptions as this package's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import aio_pika
import aio_pika.exceptions
import aiormq.exceptions
from aio_pika import Message as AmqpMessage
from aio_pika.abc import AbstractChannel, AbstractConnection
from yarl import URL

from triggers.sources.base import BrokerMisconfiguredError, BrokerUnavailableError, MessageRefusedError
from triggers.sources.credentials import broker_url, read_credentials

if TYPE_CHECKING:
    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import RabbitmqQueue

CALL_S: Final = 10.0
_CONNECTION: Final = re.compile(r"<\w+: \"amqps?://[^>]*>")
"""How the client shows a connection: with its user and its address in memory."""

for _name in ("aiormq", "aio_pika"):
    # They log a stack for every connection that breaks; the dispatcher says so in one line.
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def translated(queue: str) -> Iterator[None]:
    """Raise this package's exceptions in place of aio-pika's."""
    try:
        yield
    except (aiormq.exceptions.ProbableAuthenticationError, aiormq.exceptions.AuthenticationError):
        raise BrokerMisconfiguredError(f"{queue}: RabbitMQ refuses the credentials") from None
    except aiormq.exceptions.ChannelNotFoundEntity:
        raise BrokerMisconfiguredError(f"{queue}: there is no such queue at RabbitMQ") from None
    except aiormq.exceptions.ChannelAccessRefused as error:
        raise BrokerMisconfiguredError(f"{queue}: RabbitMQ does not allow it: {_line(error)}") from None
    except aiormq.exceptions.ConnectionNotAllowed as error:
        raise BrokerMisconfiguredError(f"{queue}: RabbitMQ does not allow it: {_line(error)}") from None
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        if "message size" in str(error):
            raise MessageRefusedError(f"{queue}: the message is larger than RabbitMQ takes") from None
        raise BrokerMisconfiguredError(f"{queue}: RabbitMQ answers {_line(error)}") from None
    except aio_pika.exceptions.PublishError:
        raise BrokerMisconfiguredError(f"{queue}: there is no such queue at RabbitMQ") from None
    except aio_pika.exceptions.DeliveryError:
        raise BrokerUnavailableError(
            f"{queue}: RabbitMQ does not take the message: the queue is full"
        ) from None
    except (*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError, asyncio.InvalidStateError) as error:
        raise BrokerUnavailableError(f"{queue}: RabbitMQ cannot be reached ({_line(error)})") from None


def _line(error: BaseException) -> str:
    text = _CONNECTION.sub("the connection", " ".join(str(error).split()))
    return (text or type(error).__name__)[:200]


class RabbitmqConnection:
    """A connection, and a channel to publish. When it breaks, `open` makes a new one."""

    def __init__(self, spec: RabbitmqQueue, settings: BrokerSettings, on_close: Callable[[], None]) -> None:
        self.spec = spec
        self._settings = settings
        self._on_close = on_close
        self._connection: AbstractConnection | None = None
        self._publishing: AbstractChannel | None = None
        self._declared: set[str] = set()
        self._lock = asyncio.Lock()

    @property
    def address(self) -> str:
        """`rabbitmq:QUEUE`."""
        return f"rabbitmq:{self.spec.queue}"

    @property
    def connection(self) -> AbstractConnection:
        """The open connection; an error if there is none."""
        if self._connection is None or self._connection.is_closed:
            raise BrokerUnavailableError(f"{self.spec.queue}: the connection to RabbitMQ is closed")
        return self._connection

    async def open(self) -> None:
        """Connect, and find the queue."""
        await self.close()
        credentials = read_credentials(self._settings.environment, "RABBITMQ", self.spec.secret)
        url = URL(broker_url(self.spec.url, credentials, "RABBITMQ"))
        if credentials.username is not None:
            url = url.with_user(credentials.username).with_password(credentials.password)
        options: dict[str, Any] = {"ssl_context": credentials.ssl_context()} if url.scheme == "amqps" else {}
        with translated(self.spec.queue):
            connection = await asyncio.wait_for(
                aio_pika.connect(
                    url, timeout=CALL_S, client_properties={"connection_name": "pilotlight"}, **options
                ),
                CALL_S,
            )
            self._connection = connection
            connection.close_callbacks.add(lambda *_: self._on_close())
            channel = await self.channel()
            await channel.declare_queue(self.spec.queue, passive=True, timeout=CALL_S)
            await channel.close()

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """A new channel."""
        channel = self.connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await asyncio.wait_for(channel.initialize(timeout=CALL_S), CALL_S)
        return channel

    async def publish(self, message: AmqpMessage, queue: str, arguments: Any = None) -> None:
        """Return when the queue has the message; with `arguments` the queue is made if it is missing."""
        with translated(queue):
            async with self._lock:
                if self._publishing is None or self._publishing.is_closed:
                    self._publishing = await self.channel(confirms=True)
                channel = self._publishing
                if arguments is not None and queue not in self._declared:
                    await channel.declare_queue(
                        queue, durable=True, arguments=dict(arguments), timeout=CALL_S
                    )
                    self._declared.add(queue)
            await channel.default_exchange.publish(message, queue, mandatory=True, timeout=CALL_S)

    async def count(self) -> int:
        """Messages that wait in the queue, and in the retry queues that this process made."""
        with translated(self.spec.queue):
            channel = await self.channel()
            found = 0
            for name in (self.spec.queue, *self._declared):
                queue = await channel.declare_queue(name, passive=True, timeout=CALL_S)
                found += queue.declaration_result.message_count or 0
            await channel.close()
        return found

    async def close(self) -> None:
        """End the connection; what was not acknowledged goes back to the queue."""
        connection, self._connection, self._publishing = self._connection, None, None
        self._declared.clear()
        if connection is not None and not connection.is_closed:
            with contextlib.suppress(*aio_pika.exceptions.CONNECTION_EXCEPTIONS, TimeoutError):
                await asyncio.wait_for(connection.close(), CALL_S)
