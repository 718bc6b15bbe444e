"""Redis and Valkey Streams: consumer groups; loans, delays and attempts live on the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from triggers.messages import Backlog, Message, OutgoingMessage
from triggers.sources import redis_scripts
from triggers.sources.base import (
    BrokerError,
    BrokerMisconfiguredError,
    BrokerUnavailableError,
    Limits,
    MessageRefusedError,
)
from triggers.sources.credentials import broker_url, read_credentials

if TYPE_CHECKING:
    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import RedisStream

BATCH: Final = 100
_CALL_S: Final = 10.0
"""How long a call may take before the server counts as unreachable."""
_ID_FIELD: Final = b"id"
_WRONG: Final = re.compile(
    r"WRONGTYPE|NOAUTH|WRONGPASS|NOPERM|unknown command|invalid username-password", re.IGNORECASE
)


@contextlib.contextmanager
def translated(stream: str) -> Iterator[None]:
    """The client's errors as this package's."""
    try:
        yield
    except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise BrokerMisconfiguredError(f"{stream}: Redis refuses the credentials ({_line(error)})") from None
    except redis.exceptions.ResponseError as error:
        kind = BrokerMisconfiguredError if _WRONG.search(str(error)) else BrokerUnavailableError
        raise kind(f"{stream}: Redis answers {_line(error)}") from None
    except redis.exceptions.DataError as error:
        raise MessageRefusedError(f"{stream}: {_line(error)}") from None
    except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
        raise BrokerUnavailableError(f"{stream}: Redis cannot be reached ({_line(error)})") from None


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


class _Connection:
    """A client of the server that has the stream."""

    def __init__(self, spec: RedisStream, settings: BrokerSettings) -> None:
        self.spec = spec
        self._settings = settings
        self._client: redis.asyncio.Redis | None = None

    @property
    def address(self) -> str:
        return f"redis:{self.spec.stream}"

    @property
    def client(self) -> redis.asyncio.Redis:
        if self._client is None:
            raise BrokerUnavailableError(f"{self.spec.stream}: the connection is closed")
        return self._client

    async def open(self) -> None:
        await self.close()
        credentials = read_credentials(self._settings.environment, "REDIS", self.spec.secret)
        url = broker_url(self.spec.url, credentials, "REDIS")
        options: dict[str, Any] = {}
        if credentials.username is not None:
            options["username"] = credentials.username
        if credentials.password is not None:
            options["password"] = credentials.password
        if url.startswith("rediss://"):
            credentials.ssl_context()  # the files are checked where the error can name them
            options |= {
                "ssl_ca_certs": credentials.ca_file,
                "ssl_certfile": credentials.cert_file,
                "ssl_keyfile": credentials.key_file,
            }
        try:
            # The dispatcher backs off by itself, and says so.
            self._client = redis.asyncio.Redis.from_url(
                url, socket_connect_timeout=5, socket_timeout=None, retry=Retry(NoBackoff(), 0), **options
            )
        except ValueError as error:
            raise BrokerMisconfiguredError(f"{self.spec.stream}: wrong url: {_line(error)}") from None
        with translated(self.spec.stream):
            kind = await asyncio.wait_for(self._client.type(self.spec.stream), _CALL_S)
        if kind not in {b"stream", b"none"}:
            held = kind.decode() if isinstance(kind, bytes) else kind
            raise BrokerMisconfiguredError(f"{self.spec.stream}: the key holds a {held}, must be a stream")

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await client.aclose()


class RedisStreamSource:
    """A stream as a source, read by a consumer group."""

    def __init__(self, spec: RedisStream, settings: BrokerSettings) -> None:
        self._connection = _Connection(spec, settings)
        self._group = spec.group_name(settings.consumer)
        self._lease_ms = round(settings.lease_s * 1000)
        self._scripts: dict[str, Any] = {}
        self._adopted_at: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._acknowledging: list[tuple[Sequence[Message], asyncio.Future[set[bytes]]]] = []
        self._acknowledger: asyncio.Task[None] | None = None

    @property
    def _stream(self) -> str:
        return self._connection.spec.stream

    @property
    def address(self) -> str:
        """`redis:STREAM`."""
        return self._connection.address

    @property
    def limits(self) -> Limits:
        """No order: the entries of a group go to whoever asks."""
        return Limits(batch=BATCH, lease_s=self._lease_ms / 1000)

    async def open(self) -> None:
        """Connect, and make the consumer group if it is missing; the stream comes with its first entry."""
        await self._connection.open()
        with translated(self._stream):
            try:
                await self._connection.client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
            except redis.exceptions.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
        self._scripts = {}
        self._adopted_at = None

    async def _run(self, script: str, *arguments: str | float) -> Any:
        client = self._connection.client
        if script not in self._scripts:
            self._scripts[script] = client.register_script(script)
        # One slot of a cluster for all three keys.
        beside = self._stream if "{" in self._stream else f"{{{self._stream}}}"
        keys = [self._stream, f"{beside}:{self._group}:lent", f"{beside}:{self._group}:delayed"]
        with translated(self._stream):
            return await asyncio.wait_for(
                self._scripts[script](keys=keys, args=[self._group, *arguments]), _CALL_S
            )

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Due retries first, then entries whose loan ended, then new ones."""
        deadline = time.monotonic() + wait_s
        while True:
            await self._adopt()
            # A call that is cancelled may have lent entries all the same: what it brings goes back.
            call = asyncio.create_task(
                self._run(redis_scripts.RECEIVE, "pilotlight", max(1, min(BATCH, limit)), self._lease_ms)
            )
            try:
                entries, last, next_ms = await asyncio.shield(call)
            except asyncio.CancelledError:
                call.add_done_callback(self._give_back)
                raise
            if entries:
                return [self._message(*entry) for entry in entries]
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            if next_ms >= 0:
                left = min(left, next_ms / 1000 + 0.001)
            await self._wait_for_entry(last, left)

    def _give_back(self, call: asyncio.Task[Any]) -> None:
        if call.cancelled() or call.exception() is not None or not call.result()[0]:
            return
        task = asyncio.create_task(self._release([self._message(*entry) for entry in call.result()[0]]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release(self, messages: Sequence[Message]) -> None:
        with contextlib.suppress(BrokerError):  # their loans end by themselves
            await self.release(messages)

    async def _wait_for_entry(self, last: bytes, seconds: float) -> None:
        """Until the stream has an entry after `last`, or the time is over."""
        block_ms = max(1, round(seconds * 1000))
        with translated(self._stream):
            await asyncio.wait_for(
                self._connection.client.xread({self._stream: last}, count=1, block=block_ms),
                seconds + _CALL_S,
            )

    async def _adopt(self) -> None:
        """Now and then, take over pending entries that no loan is known of."""
        now = time.monotonic()
        if self._adopted_at is not None and now - self._adopted_at < self._lease_ms / 1000:
            return
        self._adopted_at = now
        await self._run(redis_scripts.ADOPT, self._lease_ms)

    def _message(self, entry_id: bytes, flat: list[bytes], count: int) -> Message:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        name = self._connection.spec.body_field.encode()
        if name in fields:
            body = fields.pop(name)
            attributes = {_text(key): _text(value) for key, value in fields.items()}
        else:
            body = json.dumps({_text(key): _text(value) for key, value in fields.items()}).encode()
            attributes = {"content-type": "application/json"}
        milliseconds = int(entry_id.split(b"-")[0])
        return Message(
            id=attributes.pop(_ID_FIELD.decode(), "") or f"{self._stream}:{entry_id.decode()}",
            body=body,
            attributes=attributes,
            attempt=max(1, int(count)),
            enqueued=_instant(milliseconds),
            receipt=(entry_id, int(count)),
        )

    async def _settle(self, script: str, own: float, messages: Sequence[Message]) -> list[Message]:
        """Run a step for messages that are lent to us; returns those that are not."""
        arguments: list[str | int] = []
        for message in messages:
            entry_id, count = _receipt(message)
            arguments += [entry_id.decode(), count]
        lost = set(await self._run(script, own, *arguments)) if arguments else set()
        return [message for message in messages if _receipt(message)[0] in lost]

    async def acknowledge(self, messages: Sequence[Message]) -> Sequence[Message]:
        """XACK those that are lent to us, together with what others acknowledge while a call is under way."""
        waiting = asyncio.get_running_loop().create_future()
        self._acknowledging.append((messages, waiting))
        if self._acknowledger is None or self._acknowledger.done():
            self._acknowledger = asyncio.create_task(self._acknowledge_all())
        lost: set[bytes] = await waiting
        return [message for message in messages if _receipt(message)[0] in lost]

    async def _acknowledge_all(self) -> None:
        while self._acknowledging:
            asked, self._acknowledging = self._acknowledging, []
            together = [message for messages, _ in asked for message in messages]
            lost: set[bytes] = set()
            error: BrokerError | None = None
            try:
                own = int(self._connection.spec.delete_done)
                found = await self._settle(redis_scripts.ACKNOWLEDGE, own, together)
                lost = {_receipt(message)[0] for message in found}
            except BrokerError as raised:
                error = raised
            for _, future in asked:
                if future.cancelled():
                    continue
                if error is None:
                    future.set_result(lost)
                else:
                    future.set_exception(error)

    async def retry(self, message: Message, delay_s: float) -> None:
        """The entry stays pending; the server keeps when it is due, and counts the attempts."""
        await self._settle(redis_scripts.RETRY, round(delay_s * 1000), [message])

    async def release(self, messages: Sequence[Message]) -> None:
        """Due at once, and not counted."""
        await self._settle(redis_scripts.RELEASE, 0, messages)

    async def extend(self, messages: Sequence[Message], seconds: float) -> None:
        """Move the end of the loans."""
        await self._settle(redis_scripts.EXTEND, round(seconds * 1000), messages)

    async def backlog(self) -> Backlog:
        """Entries that were not delivered, and those that wait for a retry."""
        undelivered, delayed, oldest, _, _, now_ms = await self._run(redis_scripts.BACKLOG)
        age_s = (now_ms - int(oldest.split(b"-")[0])) / 1000 if oldest else None
        return Backlog(
            messages=None if undelivered < 0 else undelivered + delayed,
            oldest_age_s=None if age_s is None else max(0.0, age_s),
        )

    async def browse(self, limit: int) -> list[Message]:
        """A plain read, which counts nothing."""
        _, _, _, last, delayed, _ = await self._run(redis_scripts.BACKLOG)
        client = self._connection.client
        with translated(self._stream):
            found: list[Any] = []
            for entry_id in sorted(delayed, key=_order)[:limit]:
                found += await client.xrange(self._stream, entry_id, entry_id) or []
            if len(found) < limit:
                found += await client.xrange(self._stream, b"(" + last, "+", count=limit - len(found)) or []
        return [
            self._message(entry_id, [part for pair in fields.items() for part in pair], 1)
            for entry_id, fields in found
        ]

    async def close(self) -> None:
        """End the connections; loans end by themselves."""
        await asyncio.gather(*self._tasks)
        await self._connection.close()


class RedisStreamDestination:
    """A stream as a destination."""

    def __init__(self, spec: RedisStream, settings: BrokerSettings) -> None:
        self._connection = _Connection(spec, settings)

    @property
    def address(self) -> str:
        """`redis:STREAM`."""
        return self._connection.address

    async def open(self) -> None:
        """Connect; the stream comes with its first entry."""
        await self._connection.open()

    async def publish(self, message: OutgoingMessage) -> None:
        """XADD one entry: the body in its field, the attributes and the id in fields of their own."""
        spec = self._connection.spec
        fields: dict[Any, Any] = {
            _ID_FIELD: message.id,
            **{name: value for name, value in message.attributes.items() if name != spec.body_field},
            spec.body_field: message.body,
        }
        with translated(spec.stream):
            await asyncio.wait_for(self._connection.client.xadd(spec.stream, fields), _CALL_S)

    async def close(self) -> None:
        """End the connections."""
        await self._connection.close()


def _receipt(message: Message) -> tuple[bytes, int]:
    assert isinstance(message.receipt, tuple)
    return message.receipt


def _order(entry_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split(b"-")))


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _instant(milliseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None  # an id that the publisher chose
