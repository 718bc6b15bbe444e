"""Plain consumers, what triggers are measured against: each broker's own client, posting to a function.

    python benchmarks/trigger_consumers.py QUEUE_REF_JSON URL

No retries, no dead letters, no heartbeats: take messages, post ten at a time, acknowledge.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

sys.path[0] = str(Path(__file__).parents[1])

CONCURRENCY = 10
TAKE = 20
Post = Callable[[bytes], Awaitable[None]]


async def sqs(ref: dict[str, Any], post: Post) -> None:
    import boto3  # noqa: PLC0415

    client = boto3.client("sqs")
    url = client.get_queue_url(QueueName=ref["queue"])["QueueUrl"]

    async def worker() -> None:
        while True:
            got = await asyncio.to_thread(
                client.receive_message, QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1
            )
            if messages := got.get("Messages", []):
                await asyncio.gather(*(post(one["Body"].encode()) for one in messages))
                entries = [
                    {"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)
                ]
                await asyncio.to_thread(client.delete_message_batch, QueueUrl=url, Entries=entries)

    await asyncio.gather(*(worker() for _ in range(2)))


async def rabbitmq(ref: dict[str, Any], post: Post) -> None:
    import aio_pika  # noqa: PLC0415

    parts = urlsplit(ref["url"])
    user, password = os.environ["RABBITMQ_USERNAME"], os.environ["RABBITMQ_PASSWORD"]
    connection = await aio_pika.connect(f"amqp://{user}:{password}@{parts.netloc}/")
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=TAKE)
    queue = await channel.get_queue(ref["queue"], ensure=False)

    async def take(message: Any) -> None:
        await post(message.body)
        await message.ack()

    await queue.consume(take)
    await asyncio.Event().wait()


async def nats(ref: dict[str, Any], post: Post) -> None:
    import nats as client_library  # noqa: PLC0415

    client = await client_library.connect(
        ref["url"], user=os.environ["NATS_USERNAME"], password=os.environ["NATS_PASSWORD"]
    )
    subscription = await client.jetstream().pull_subscribe("", durable="plain", stream=ref["stream"])

    async def take(message: Any) -> None:
        await post(message.data)
        await message.ack()

    while True:
        try:
            messages = await subscription.fetch(TAKE, timeout=1)
        except TimeoutError:
            continue
        await asyncio.gather(*map(take, messages))


async def redis(ref: dict[str, Any], post: Post) -> None:
    import redis.asyncio as client_library  # noqa: PLC0415

    client = client_library.Redis.from_url(
        ref["url"], username=os.environ["REDIS_USERNAME"], password=os.environ["REDIS_PASSWORD"]
    )
    await client.xgroup_create(ref["stream"], "plain", id="0", mkstream=True)
    while True:
        found = await client.xreadgroup("plain", "one", {ref["stream"]: ">"}, count=TAKE, block=1000)
        for _, entries in found or ():
            await asyncio.gather(*(post(fields[b"data"]) for _, fields in entries))
            await client.xack(ref["stream"], "plain", *(entry for entry, _ in entries))


async def kafka(ref: dict[str, Any], post: Post) -> None:
    from confluent_kafka import Consumer  # noqa: PLC0415

    consumer = Consumer(
        {
            "bootstrap.servers": ref["bootstrap_servers"],
            "group.id": "plain",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
        }
    )
    consumer.subscribe([ref["topic"]])

    def take() -> list[Any]:
        first = consumer.poll(1.0)
        return [] if first is None else [first, *consumer.consume(TAKE - 1, 0)]

    while True:
        messages = [one for one in await asyncio.to_thread(take) if one.error() is None]
        if messages:
            await asyncio.gather(*(post(one.value()) for one in messages))
            await asyncio.to_thread(consumer.commit, message=messages[-1], asynchronous=False)


CONSUMERS = {"sqs": sqs, "rabbitmq": rabbitmq, "nats": nats, "redis": redis, "kafka": kafka}


async def main() -> None:
    ref, url = json.loads(sys.argv[1]), sys.argv[2]
    [(kind, queue)] = ref.items()
    slots = asyncio.Semaphore(CONCURRENCY)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post(body: bytes) -> None:
            async with slots, session.post(url, data=body) as response:
                await response.read()

        await CONSUMERS[kind](queue, post)


if __name__ == "__main__":
    asyncio.run(main())
