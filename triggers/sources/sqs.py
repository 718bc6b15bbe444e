"""Amazon SQS, standard and FIFO queues, and every server that speaks its protocol.

boto3 in threads: its client may be used by several at a time, and the chain of credentials, endpoints and
regions is exactly that of the AWS command line. Messages that are acknowledged while a call is under way are
deleted together by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import boto3
import botocore.config
import botocore.exceptions

from triggers.messages import Backlog, Message, OutgoingMessage
from triggers.sources.base import BrokerError, BrokerUnavailableError, Limits
from triggers.sources.sqs_errors import StaleReceiptError, error_of_entry, translated
from triggers.sources.sqs_messages import from_sqs, to_sqs

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import SqsQueue

T = TypeVar("T")

BATCH: Final = 10
"""Messages of one call at most, as SQS limits them."""
MAX_VISIBILITY_S: Final = 43_200
"""Twelve hours, as SQS limits it."""
_THREADS: Final = 16
_DELETERS: Final = 4
"""Calls that delete messages, at a time."""
EMBEDDED_REGION: Final = "us-east-1"
_BROWSE_S: Final = 30
"""How long a message is hidden from others while it is looked at."""
_ARN: Final = re.compile(r"arn:[a-z-]+:sqs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[\w.-]+)")
_URL: Final = re.compile(r"https?://sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/\d{12}/[\w.-]+")


class _Queue:
    """A queue at SQS: the client, the queue's URL, and calls in threads."""

    def __init__(self, spec: SqsQueue, settings: BrokerSettings) -> None:
        self._spec = spec
        self._settings = settings
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="sqs")
        self._client: SQSClient | None = None
        self._url: str | None = None
        self._arn: str | None = None

    @property
    def name(self) -> str:
        return self._spec.queue

    @property
    def fifo(self) -> bool:
        return self._spec.queue.endswith(".fifo")

    @property
    def address(self) -> str:
        return self._arn or f"sqs:{self._spec.queue}"

    @property
    def url(self) -> str:
        assert self._url is not None, "open() comes first"
        return self._url

    @property
    def client(self) -> SQSClient:
        assert self._client is not None, "open() comes first"
        return self._client

    async def call(self, function: Callable[..., T], **parameters: Any) -> T:
        """Run one call of the client in a thread; its errors are this package's."""
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(
                self._pool, functools.partial(self._translated, function, parameters)
            )
        except RuntimeError:
            raise BrokerUnavailableError(f"{self.name}: the connection is closed") from None
        return await future

    def _translated(self, function: Callable[..., T], parameters: dict[str, Any]) -> T:
        with translated(self.name, self._client.meta.endpoint_url if self._client else "SQS"):
            return function(**parameters)

    async def open(self) -> None:
        await self.call(self._open)

    def _open(self) -> None:
        if self._client is None:
            self._client = self._connect()
        with translated(self.name, self._client.meta.endpoint_url):
            self._url = self._find(self._client)
            found = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
            self._arn = found["Attributes"]["QueueArn"]

    @property
    def _embedded(self) -> str | None:
        """The embedded server, where the queue is there."""
        return self._settings.embedded_sqs if self._spec.is_name_alone else None

    def _connect(self) -> SQSClient:
        config = botocore.config.Config(
            # The dispatcher backs off by itself, and says so; two layers of retries would multiply.
            retries={"total_max_attempts": 2, "mode": "standard"},
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=_THREADS,
        )
        session = boto3.session.Session()
        if (embedded := self._embedded) is not None:
            return session.client(
                "sqs",
                region_name=EMBEDDED_REGION,
                endpoint_url=embedded,
                aws_access_key_id="embedded",
                aws_secret_access_key="embedded",  # noqa: S106 - the server asks for one and checks none
                config=config,
            )
        match = _ARN.fullmatch(self._spec.queue) or _URL.fullmatch(self._spec.queue)
        region = self._spec.region or (match["region"] if match else None)
        endpoint = self._spec.endpoint or self._settings.environment.get("AWS_ENDPOINT_URL_SQS")
        return session.client("sqs", region_name=region, endpoint_url=endpoint, config=config)

    def _find(self, client: SQSClient) -> str:
        queue = self._spec.queue
        if queue.startswith(("http://", "https://")):
            return queue
        arn = _ARN.fullmatch(queue)
        name = arn["name"] if arn else queue
        account = {"QueueOwnerAWSAccountId": arn["account"]} if arn else {}
        try:
            return client.get_queue_url(QueueName=name, **account)["QueueUrl"]
        except client.exceptions.QueueDoesNotExist:
            if self._embedded is None:
                raise
        attributes: dict[Any, str] = {"FifoQueue": "true"} if self.fifo else {}
        return client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()


class SqsSource:
    """A queue as a source."""

    def __init__(self, spec: SqsQueue, settings: BrokerSettings) -> None:
        self._queue = _Queue(spec, settings)
        self._lease_s = max(1, min(MAX_VISIBILITY_S, round(settings.lease_s)))
        self._deletions: list[tuple[Message, asyncio.Future[bool]]] = []
        self._deleters: set[asyncio.Task[None]] = set()
        self._receiving: set[asyncio.Task[list[Message]]] = set()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """The queue's ARN."""
        return self._queue.address

    @property
    def limits(self) -> Limits:
        """Ten messages a call, twelve hours of visibility, order within groups in FIFO queues."""
        return Limits(
            batch=BATCH, lease_s=self._lease_s, retry_delay_s=MAX_VISIBILITY_S, ordered=self._queue.fifo
        )

    async def open(self) -> None:
        """Find the queue."""
        await self._queue.open()

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Long polling, at most 20 s."""
        call = asyncio.create_task(self._receive(limit, wait_s, self._lease_s))
        self._receiving.add(call)
        call.add_done_callback(self._receiving.discard)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            # The thread goes on until SQS answers; what it brings then goes back.
            releasing = asyncio.create_task(self._give_back(call))
            self._background.add(releasing)
            releasing.add_done_callback(self._background.discard)
            raise

    async def _receive(self, limit: int, wait_s: float, visibility_s: int) -> list[Message]:
        found = await self._queue.call(
            self._queue.client.receive_message,
            QueueUrl=self._queue.url,
            MaxNumberOfMessages=max(1, min(BATCH, limit)),
            WaitTimeSeconds=max(0, min(20, math.ceil(wait_s))),
            VisibilityTimeout=visibility_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            MessageAttributeNames=["All"],
        )
        return [from_sqs(raw) for raw in found.get("Messages", ())]

    async def _give_back(self, call: asyncio.Task[list[Message]]) -> None:
        with contextlib.suppress(BrokerError):  # they come back when their visibility timeout has passed
            await self.release(await call)

    async def acknowledge(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Delete them; those whose receipt is stale are returned."""
        loop = asyncio.get_running_loop()
        waiting = [(message, loop.create_future()) for message in messages]
        self._deletions += waiting
        if len(self._deleters) < _DELETERS:
            deleter = asyncio.create_task(self._delete())
            self._deleters.add(deleter)
        done = await asyncio.gather(*(future for _, future in waiting))
        return [message for (message, _), deleted in zip(waiting, done, strict=True) if not deleted]

    async def _delete(self) -> None:
        """Delete what is to be deleted, ten messages a call."""
        await asyncio.sleep(0)  # what is acknowledged in the same turn of the loop goes together
        while self._deletions:
            batch, self._deletions[:BATCH] = self._deletions[:BATCH], []
            try:
                errors = await self._change(
                    self._queue.client.delete_message_batch, [{"ReceiptHandle": m.receipt} for m, _ in batch]
                )
            except BrokerError as error:
                errors = dict.fromkeys(range(len(batch)), error)
            for at, (_, future) in enumerate(batch):
                found = errors.get(at)
                if future.cancelled():
                    continue
                if found is None or isinstance(found, StaleReceiptError):
                    future.set_result(found is None)
                else:
                    future.set_exception(found)
        # In the same turn as the look at the list: whoever adds to it now starts another one.
        self._deleters.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _change(
        self, function: Callable[..., Any], entries: list[dict[str, Any]]
    ) -> dict[int, BrokerError]:
        """A batch call for up to ten entries; the errors by their positions."""
        numbered = [{"Id": str(at), **entry} for at, entry in enumerate(entries)]
        found = await self._queue.call(function, QueueUrl=self._queue.url, Entries=numbered)
        return {
            int(failed["Id"]): error_of_entry(failed["Code"], failed.get("Message", ""), self._queue.name)
            for failed in found.get("Failed", ())
        }

    async def _set_visibility(self, messages: Sequence[Message], seconds: float) -> None:
        for start in range(0, len(messages), BATCH):
            entries = [
                {
                    "ReceiptHandle": message.receipt,
                    "VisibilityTimeout": min(MAX_VISIBILITY_S, max(0, round(seconds))),
                }
                for message in messages[start : start + BATCH]
            ]
            errors = await self._change(self._queue.client.change_message_visibility_batch, entries)
            for error in errors.values():
                if not isinstance(error, StaleReceiptError):  # a stale one is visible, or gone, already
                    raise error

    async def retry(self, message: Message, delay_s: float) -> None:
        """Visible again after the delay; SQS has counted the attempt when it lent the message."""
        await self._set_visibility([message], delay_s)

    async def release(self, messages: Sequence[Message]) -> None:
        """Visible again at once; SQS counts it as an attempt."""
        await self._set_visibility(messages, 0)

    async def extend(self, messages: Sequence[Message], seconds: float) -> None:
        """Start their visibility timeout anew."""
        await self._set_visibility(messages, max(1, seconds))

    async def backlog(self) -> Backlog:
        """The approximate number of visible messages; SQS tells the oldest one's age to CloudWatch alone."""
        found = await self._queue.call(
            self._queue.client.get_queue_attributes,
            QueueUrl=self._queue.url,
            AttributeNames=["ApproximateNumberOfMessages"],
        )
        return Backlog(messages=int(found["Attributes"]["ApproximateNumberOfMessages"]))

    async def browse(self, limit: int) -> list[Message]:
        """Borrowed for a moment, which SQS counts as an attempt."""
        found: dict[str, Message] = {}
        try:
            while len(found) < limit:
                got = await self._receive(limit - len(found), 0, _BROWSE_S)
                if not (new := {message.id: message for message in got if message.id not in found}):
                    break
                found |= new
        finally:
            await self.release(list(found.values()))
        return list(found.values())

    async def close(self) -> None:
        """Wait for calls under way, so that what they bring goes back."""
        await asyncio.gather(*self._background, *self._receiving, return_exceptions=True)
        await asyncio.gather(*self._deleters)
        await self._queue.close()


class SqsDestination:
    """A queue as a destination."""

    def __init__(self, spec: SqsQueue, settings: BrokerSettings) -> None:
        self._queue = _Queue(spec, settings)

    @property
    def address(self) -> str:
        """The queue's ARN."""
        return self._queue.address

    async def open(self) -> None:
        """Find the queue."""
        await self._queue.open()

    async def publish(self, message: OutgoingMessage) -> None:
        """Send one message; in a FIFO queue the id removes duplicates for five minutes."""
        await self._queue.call(
            self._queue.client.send_message,
            QueueUrl=self._queue.url,
            **to_sqs(message, fifo=self._queue.fifo),
        )

    async def close(self) -> None:
        """End the connections."""
        await self._queue.close()
