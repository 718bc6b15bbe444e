"""From the address of a queue to the object that talks to its broker.

A broker's module, and with it the client library, is imported when the first queue of that kind is opened.
"""

from __future__ import annotations

from triggers.sources.base import Destination, Source
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef


def make_source(ref: QueueRef, settings: BrokerSettings) -> Source:
    """The queue as a source; nothing is connected before `open`."""
    if ref.sqs is not None:
        from triggers.sources.sqs import SqsSource  # noqa: PLC0415 - boto3

        return SqsSource(ref.sqs, settings)
    if ref.rabbitmq is not None:
        from triggers.sources.rabbitmq import RabbitmqSource  # noqa: PLC0415 - aio-pika

        return RabbitmqSource(ref.rabbitmq, settings)
    if ref.nats is not None:
        from triggers.sources.nats import NatsSource  # noqa: PLC0415 - nats-py

        return NatsSource(ref.nats, settings)
    if ref.redis is not None:
        from triggers.sources.redis_streams import RedisStreamSource  # noqa: PLC0415 - redis-py

        return RedisStreamSource(ref.redis, settings)
    if ref.kafka is not None:
        from triggers.sources.kafka import KafkaSource  # noqa: PLC0415 - confluent-kafka

        return KafkaSource(ref.kafka, settings)
    raise AssertionError(ref.kind)


def make_destination(ref: QueueRef, settings: BrokerSettings) -> Destination:
    """The queue as a destination; nothing is connected before `open`."""
    if ref.sqs is not None:
        from triggers.sources.sqs import SqsDestination  # noqa: PLC0415 - boto3

        return SqsDestination(ref.sqs, settings)
    if ref.rabbitmq is not None:
        from triggers.sources.rabbitmq import RabbitmqDestination  # noqa: PLC0415 - aio-pika

        return RabbitmqDestination(ref.rabbitmq, settings)
    if ref.nats is not None:
        from triggers.sources.nats import NatsDestination  # noqa: PLC0415 - nats-py

        return NatsDestination(ref.nats, settings)
    if ref.redis is not None:
        from triggers.sources.redis_streams import RedisStreamDestination  # noqa: PLC0415 - redis-py

        return RedisStreamDestination(ref.redis, settings)
    if ref.kafka is not None:
        from triggers.sources.kafka import KafkaDestination  # noqa: PLC0415 - confluent-kafka

        return KafkaDestination(ref.kafka, settings)
    raise AssertionError(ref.kind)
