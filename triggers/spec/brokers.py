"""Where a queue is: one model for each kind of broker, and `QueueRef`, which has exactly one of them (pure).

Credentials have no field here: they come from the environment, and on a cluster from a Secret.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from triggers.spec.field_types import QueueName, SecretName, SpecModel, Url


class SqsQueue(SpecModel):
    """A queue of Amazon SQS. Credentials: the usual AWS chain."""

    queue: QueueName
    """Name, URL or ARN. A name that ends in `.fifo` is a FIFO queue."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    """None: that of the URL or the ARN, else that of the usual AWS chain."""
    endpoint: Url | None = None
    """None: that of the usual AWS chain (`AWS_ENDPOINT_URL_SQS`), and on one machine the embedded server."""

    @property
    def is_name_alone(self) -> bool:
        """Nothing says where it is: on one machine it is in the embedded server."""
        named = ":" not in self.queue and "/" not in self.queue
        return named and self.region is None and self.endpoint is None


class RabbitmqQueue(SpecModel):
    """A queue of RabbitMQ, best a quorum queue. Variables: `RABBITMQ_URL`, `RABBITMQ_USERNAME`, and so on."""

    queue: QueueName
    url: Annotated[str, Field(pattern=r"^amqps?://[^@\s]+$", max_length=1024)] | None = None
    """`amqp://HOST:PORT/VHOST`, or `amqps://` for TLS. None: `RABBITMQ_URL` or the Secret's `url`."""
    secret: SecretName | None = None
    """Secret with `username`, `password`; for TLS `ca.crt`, `tls.crt`, `tls.key`. None: the environment."""
    ordered: bool = False
    """Keep the queue's order, one message at a time: for a quorum queue with `x-single-active-consumer` and
    an `x-delivery-limit` above the Trigger's attempts."""


class NatsStream(SpecModel):
    """A stream of NATS JetStream. Variables: `NATS_URL`, `NATS_USERNAME`, `NATS_CREDS_FILE`, and so on."""

    stream: Annotated[str, Field(pattern=r"^[^\s.*>/\\]+$", max_length=255)]
    subject: QueueName | None = None
    """Of a source: the filter, by default all of the stream. Of a destination: where to publish, by default
    the stream's only subject; one `*` stands for the message's group."""
    consumer: Annotated[str, Field(pattern=r"^[^\s.*>/\\]+$", max_length=255)] | None = None
    """The durable consumer. None: made from the Trigger's name."""
    url: Annotated[str, Field(pattern=r"^(nats|tls|wss?)://[^@\s]+$", max_length=1024)] | None = None
    """`nats://HOST:PORT`, several with commas, or `tls://`. None: `NATS_URL` or the Secret's `url`."""
    secret: SecretName | None = None
    """Secret with `username` and `password`, `token` or `nats.creds`, and `ca.crt` for TLS."""
    ordered: bool = False
    """Keep the order within each subject, as long as one dispatcher runs."""

    def consumer_name(self, trigger: str) -> str:
        """The durable consumer for a Trigger `NAMESPACE/NAME`."""
        return self.consumer or re.sub(r"[^A-Za-z0-9_-]", "-", trigger)


class RedisStream(SpecModel):
    """A stream of Redis or Valkey. Variables: `REDIS_URL`, `REDIS_USERNAME`, `REDIS_PASSWORD`, and so on."""

    stream: QueueName
    group: QueueName | None = None
    """The consumer group, made if missing from the stream's first entry on. None: the Trigger's name."""
    url: Annotated[str, Field(pattern=r"^rediss?://[^@\s]+$", max_length=1024)] | None = None
    """`redis://HOST:PORT/DATABASE`, or `rediss://` for TLS. None: `REDIS_URL` or the Secret's `url`."""
    secret: SecretName | None = None
    """Secret with `username`, `password`, and `ca.crt` for TLS."""
    body_field: QueueName = "data"
    """Field of an entry with the body; an entry without it becomes a JSON object of its fields."""
    delete_done: bool = False
    """Delete entries from the stream when they are done; right when no other group reads it."""

    def group_name(self, trigger: str) -> str:
        """The consumer group for a Trigger `NAMESPACE/NAME`."""
        return self.group or trigger


class KafkaTopic(SpecModel):
    """A topic of Kafka. Variables: `KAFKA_URL` (bootstrap servers), `KAFKA_USERNAME`, and so on."""

    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    group: QueueName | None = None
    """The consumer group. None: made from the Trigger's name."""
    bootstrap_servers: Annotated[str, Field(pattern=r"^[^@\s]+$", max_length=2048)] | None = None
    """`HOST:PORT`, several with commas. None: `KAFKA_URL` or the Secret's `url`."""
    tls: bool = False
    sasl: Literal["plain", "scram-sha-256", "scram-sha-512"] | None = None
    """None: no user and password."""
    secret: SecretName | None = None
    """Secret with `username`, `password`, and `ca.crt`, `tls.crt`, `tls.key` for TLS."""
    order: Literal["key", "partition"] = "key"
    """What keeps its order: the messages of one key, or all of a partition."""

    def group_name(self, trigger: str) -> str:
        """The consumer group for a Trigger `NAMESPACE/NAME`."""
        return self.group or trigger.replace("/", ".")


class QueueRef(SpecModel):
    """A queue of one broker: `{sqs: {queue: orders}}`."""

    sqs: SqsQueue | None = None
    rabbitmq: RabbitmqQueue | None = None
    nats: NatsStream | None = None
    redis: RedisStream | None = None
    kafka: KafkaTopic | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        kinds = list(type(self).model_fields)
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise ValueError(f"must have exactly one of {', '.join(kinds)}")
        return self

    @property
    def kind(self) -> str:
        """The field that is set, e.g. `sqs`."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)
