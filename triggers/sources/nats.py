"""NATS JetStream: a durable pull consumer, which keeps attempts, delays and loans on the server.

With `ordered`, the messages of a subject are lent one at a time. One that failed is kept here for its delay,
so that those behind it wait, and only then given back to the server, which counts the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo

from triggers.messages import Backlog, Message, OutgoingMessage
from triggers.sources.base import (
    BrokerError,
    BrokerMisconfiguredError,
    BrokerUnavailableError,
    Limits,
    MessageRefusedError,
)
from triggers.sources.credentials import broker_url, read_credentials
from triggers.sources.group_order import GroupOrder
from triggers.sources.nats_pull import PullConsumer

if TYPE_CHECKING:
    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import NatsStream

BATCH: Final = 100
_CALL_S: Final = 5.0
_MAX_ACK_PENDING: Final = 65_536
"""Messages that wait for their retry count as not acknowledged: far above what is in flight."""
_ID_HEADER: Final = "Nats-Msg-Id"
_LINE_BREAK: Final = re.compile(r"[\r\n]")
_TOKEN: Final = re.compile(r"[\s.*>]")
"""What a token of a subject cannot have."""


@contextlib.contextmanager
def translated(queue: str) -> Iterator[None]:
    """The client's errors as this package's."""
    try:
        yield
    except (nats.errors.AuthorizationError, nats.errors.InvalidUserCredentialsError):
        raise BrokerMisconfiguredError(f"{queue}: NATS refuses the credentials") from None
    except nats.errors.MaxPayloadError:
        raise MessageRefusedError(f"{queue}: the message is larger than NATS' max_payload") from None
    except (nats.js.errors.NotFoundError, nats.js.errors.NoStreamResponseError):
        raise BrokerMisconfiguredError(f"{queue}: there is no such stream at NATS") from None
    except nats.js.errors.ServiceUnavailableError:
        raise BrokerUnavailableError(f"{queue}: JetStream does not answer") from None
    except (nats.js.errors.BadRequestError, nats.errors.BadSubjectError) as error:
        raise BrokerMisconfiguredError(f"{queue}: NATS answers {_line(error)}") from None
    except (nats.errors.Error, OSError, TimeoutError) as error:
        if "authorization violation" in str(error).lower():
            raise BrokerMisconfiguredError(f"{queue}: NATS refuses the credentials") from None
        raise BrokerUnavailableError(f"{queue}: NATS cannot be reached ({_line(error)})") from None


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


class _Connection:
    """A connection to the servers that have the stream; when it breaks, `open` makes a new one."""

    def __init__(self, spec: NatsStream, settings: BrokerSettings) -> None:
        self.spec = spec
        self._settings = settings
        self._client: Client | None = None
        self._last_error: Exception | None = None

    @property
    def address(self) -> str:
        return f"nats:{self.spec.stream}" + (f"/{self.spec.subject}" if self.spec.subject else "")

    @property
    def client(self) -> Client:
        if self._client is None or not self._client.is_connected:
            raise BrokerUnavailableError(f"{self.spec.stream}: the connection to NATS is closed")
        return self._client

    async def open(self) -> StreamInfo:
        """Connect, and find the stream."""
        await self.close()
        credentials = read_credentials(self._settings.environment, "NATS", self.spec.secret)
        urls = broker_url(self.spec.url, credentials, "NATS").split(",")
        self._last_error = None

        async def remember(error: Exception) -> None:
            self._last_error = error

        options: dict[str, Any] = {"error_cb": remember, "allow_reconnect": False, "connect_timeout": 5}
        if any(url.startswith(("tls://", "wss://")) for url in urls) or credentials.ca_file is not None:
            options["tls"] = credentials.ssl_context()
        login = {
            "user": credentials.username,
            "password": credentials.password,
            "token": credentials.token,
            "user_credentials": credentials.creds_file,
        }
        options |= {name: value for name, value in login.items() if value is not None}
        with translated(self.spec.stream):
            try:
                self._client = await nats.connect(urls, **options)
            except nats.errors.NoServersError:
                # The client's last word is that no server is left; what each of them said came before it.
                raise self._last_error or OSError("no server answers") from None
            return await self._client.jetstream(timeout=_CALL_S).stream_info(self.spec.stream)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await asyncio.wait_for(client.close(), _CALL_S)


class NatsSource:
    """A stream as a source, read by a durable pull consumer."""

    def __init__(self, spec: NatsStream, settings: BrokerSettings) -> None:
        self._connection = _Connection(spec, settings)
        self._consumer = spec.consumer_name(settings.consumer)
        self._lease_s = settings.lease_s
        self._pull: PullConsumer | None = None
        self._order: GroupOrder[Msg] = GroupOrder(_sequence)
        self._pattern: str | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def _spec(self) -> NatsStream:
        return self._connection.spec

    @property
    def address(self) -> str:
        """`nats:STREAM` or `nats:STREAM/SUBJECT`."""
        return self._connection.address

    @property
    def limits(self) -> Limits:
        """Order within subjects if the Trigger asks for it."""
        return Limits(batch=BATCH, lease_s=self._lease_s, ordered=self._spec.ordered)

    async def open(self) -> None:
        """Connect, and make the durable consumer or bring it up to date."""
        await self._end_tasks()
        info = await self._connection.open()
        self._order.clear()
        self._pattern = _pattern(self._spec.subject, info)
        context = self._connection.client.jetstream(timeout=_CALL_S)
        config = ConsumerConfig(
            durable_name=self._consumer,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=self._lease_s,
            max_deliver=-1,
            max_ack_pending=_MAX_ACK_PENDING,
            filter_subject=self._spec.subject,
        )
        with translated(self._spec.stream):
            await context.add_consumer(self._spec.stream, config)
            self._pull = PullConsumer(self._connection.client, self._spec.stream, self._consumer)
            await self._pull.start()
        self._start(self._keep_held())

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Pull; in an ordered source what may not be lent yet is held."""
        limit = max(1, min(BATCH, limit))
        deadline = time.monotonic() + wait_s
        while True:
            if self._spec.ordered:
                if taken := self._order.take(limit):
                    return [self._message(raw) for raw in taken]
                if len(self._order) >= BATCH:  # all of them wait for the first one of their group
                    await asyncio.sleep(max(0.0, min(0.05, deadline - time.monotonic())))
                    if time.monotonic() >= deadline:
                        return []
                    continue
            left = deadline - time.monotonic()
            # A source that holds messages looks at them again now and then.
            found = await self._fetch(limit, max(0.01, min(left, 0.1) if len(self._order) else left))
            if found and not self._spec.ordered:
                return [self._message(raw) for raw in found]
            for raw in found:
                self._order.add(_group(self._pattern, raw.subject), raw)
            if time.monotonic() >= deadline and not found:
                return []

    async def _fetch(self, limit: int, wait_s: float) -> list[Msg]:
        self._connection.client  # noqa: B018 - raises when the connection is closed
        assert self._pull is not None
        with translated(self._spec.stream):
            found = await self._pull.receive(limit, wait_s)
        if not found:
            self._connection.client  # noqa: B018
        return found

    def _message(self, raw: Msg) -> Message:
        headers = raw.headers or {}
        about = raw.metadata
        return Message(
            id=headers.get(_ID_HEADER) or f"{self._spec.stream}:{about.sequence.stream}",
            body=raw.data,
            attributes={
                _attribute(name): value for name, value in headers.items() if not name.startswith("Nats-")
            },
            attempt=about.num_delivered,
            enqueued=about.timestamp.astimezone(UTC),
            group=_group(self._pattern, raw.subject) if self._spec.ordered else None,
            receipt=raw,
        )

    async def _answer(self, raws: Sequence[Msg], answer: bytes) -> None:
        """Answer deliveries; their reply subjects stay valid on a new connection."""
        client = self._connection.client
        with translated(self._spec.stream):
            for raw in raws:
                await client.publish(raw.reply, answer)
            await client.flush(timeout=round(_CALL_S))

    def _settle(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.group is not None:
                self._order.settle(message.group, _sequence(_raw(message)))

    async def acknowledge(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Confirmed by the server, which is silent about messages that it no longer counts as lent."""
        client = self._connection.client
        calls = (client.request(_raw(one).reply, b"+ACK", timeout=_CALL_S) for one in messages)
        results = await asyncio.gather(*calls, return_exceptions=True)
        lost = []
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, TimeoutError) and client.is_connected:
                lost.append(message)
            elif isinstance(result, BaseException):
                with translated(self._spec.stream):
                    raise result
        self._settle(messages)
        return lost

    async def retry(self, message: Message, delay_s: float) -> None:
        """The server delivers it again after the delay, and counts the delivery."""
        raw = _raw(message)
        if message.group is None:
            nanoseconds = max(1, round(delay_s * 1e9))
            await self._answer([raw], f'-NAK {{"delay": {nanoseconds}}}'.encode())
            return
        await self._answer([raw], b"+WPI")
        self._start(self._return_later(raw, delay_s))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _return_later(self, raw: Msg, delay_s: float) -> None:
        """Keep a delivery for its delay, then give it back: its group waits for it."""
        deadline = time.monotonic() + delay_s
        try:
            while (left := deadline - time.monotonic()) > 0:
                await asyncio.sleep(min(left, self._lease_s / 3))
                if deadline - time.monotonic() > 0:
                    await self._answer([raw], b"+WPI")
            await self._answer([raw], b"-NAK")
        except BrokerError:
            pass  # the loan ends by itself, or `open` begins anew

    async def release(self, messages: Sequence[Message]) -> None:
        """To be delivered at once; JetStream counts it as an attempt. An ordered source keeps it at hand."""
        for message in messages:
            if message.group is not None:
                self._order.add(message.group, _raw(message))
        await self._answer([_raw(message) for message in messages if message.group is None], b"-NAK")

    async def extend(self, messages: Sequence[Message], seconds: float) -> None:  # noqa: ARG002 - see there
        """Start the consumer's ack wait anew, which is the lease: JetStream takes no other time."""
        await self._answer([_raw(message) for message in messages], b"+WPI")

    async def _keep_held(self) -> None:
        """Prolong the loans of messages that wait here to be taken."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            fetched = () if self._pull is None else tuple(self._pull.fetched)
            if held := [*self._order.held(), *fetched]:
                with contextlib.suppress(BrokerError):  # `receive` says so
                    await self._answer(held, b"+WPI")

    async def backlog(self) -> Backlog:
        """Messages that were not delivered, and those that wait for a retry or are lent."""
        context = self._connection.client.jetstream(timeout=_CALL_S)
        with translated(self._spec.stream):
            info = await context.consumer_info(self._spec.stream, self._consumer)
            age_s = None
            if info.num_pending:
                following = (info.delivered.stream_seq if info.delivered else 0) + 1
                age_s = await self._age_of(context, following)
        return Backlog(messages=info.num_pending, oldest_age_s=age_s)

    async def _age_of(self, context: Any, sequence: int) -> float | None:
        try:
            raw = await context.get_msg(
                self._spec.stream, seq=sequence, next=True, subject=self._spec.subject or ">"
            )
        except nats.js.errors.NotFoundError:
            return None
        return None if raw.time is None else max(0.0, (datetime.now(UTC) - raw.time).total_seconds())

    async def browse(self, limit: int) -> list[Message]:
        """A plain read of the stream behind what was delivered, which counts nothing."""
        context = self._connection.client.jetstream(timeout=_CALL_S)
        found: list[Message] = []
        with translated(self._spec.stream):
            info = await context.consumer_info(self._spec.stream, self._consumer)
            sequence = (info.ack_floor.stream_seq if info.ack_floor else 0) + 1
            while len(found) < limit:
                try:
                    raw = await context.get_msg(
                        self._spec.stream, seq=sequence, next=True, subject=self._spec.subject or ">"
                    )
                except nats.js.errors.NotFoundError:
                    break
                headers = dict(raw.headers or {})
                found.append(
                    Message(
                        id=headers.get(_ID_HEADER) or f"{self._spec.stream}:{raw.seq}",
                        body=raw.data or b"",
                        attributes={
                            _attribute(name): text
                            for name, text in headers.items()
                            if not name.startswith("Nats-")
                        },
                        enqueued=raw.time,
                    )
                )
                sequence = raw.seq + 1
        return found

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """End the connection; what was lent comes back when its loan ends."""
        await self._end_tasks()
        pull, self._pull = self._pull, None
        with contextlib.suppress(BrokerError):
            held = self._order.held()
            if pull is not None:
                with translated(self._spec.stream):
                    await pull.stop()
                held += pull.fetched
            if held:
                await self._answer(held, b"-NAK")
        self._order.clear()
        await self._connection.close()


class NatsDestination:
    """A stream's subject as a destination."""

    def __init__(self, spec: NatsStream, settings: BrokerSettings) -> None:
        self._connection = _Connection(spec, settings)
        self._pattern = ""

    @property
    def address(self) -> str:
        """`nats:STREAM` or `nats:STREAM/SUBJECT`."""
        return self._connection.address

    async def open(self) -> None:
        """Connect, find the stream, and know where to publish."""
        info = await self._connection.open()
        spec = self._connection.spec
        pattern = _pattern(spec.subject, info)
        if pattern is None or ">" in pattern or pattern.count("*") > 1:
            raise BrokerMisconfiguredError(
                f"{spec.stream}: a destination needs a subject, with at most one '*' for the group; "
                f"the stream has {', '.join(info.config.subjects or [])}"
            )
        self._pattern = pattern

    async def publish(self, message: OutgoingMessage) -> None:
        """Publish one message; the stream removes duplicates by its id."""
        spec = self._connection.spec
        headers = {_ID_HEADER: message.id}
        for name, value in message.attributes.items():
            headers[name] = _LINE_BREAK.sub(" ", value)
        context = self._connection.client.jetstream(timeout=_CALL_S)
        with translated(spec.stream):
            await context.publish(
                self._pattern.replace("*", _TOKEN.sub("_", message.group or "") or "_"),
                message.body,
                stream=spec.stream,
                headers=headers,
                timeout=_CALL_S,
            )

    async def close(self) -> None:
        """End the connection."""
        await self._connection.close()


def _pattern(subject: str | None, info: StreamInfo) -> str | None:
    """The subject that was asked for, else the stream's only one."""
    subjects = info.config.subjects or []
    return subject or (subjects[0] if len(subjects) == 1 else None)


def _group(pattern: str | None, subject: str) -> str:
    """What stands for the pattern's only `*`, else the whole subject."""
    if pattern is not None and pattern.count("*") == 1 and ">" not in pattern:
        before, after = pattern.split("*")
        return subject[len(before) : len(subject) - len(after)]
    return subject


def _raw(message: Message) -> Msg:
    assert isinstance(message.receipt, Msg)
    return message.receipt


def _sequence(raw: Msg) -> int:
    return int(raw.metadata.sequence.stream)


def _attribute(name: str) -> str:
    return "content-type" if name.lower() == "content-type" else name
