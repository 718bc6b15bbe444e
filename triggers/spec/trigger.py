"""The spec of a Trigger as values (pure).

`TriggerSpec` is the custom resource's. An entry of `triggers:` in an agent file names its target and the
stages to wake in another way, and has all the rest from `TriggerTemplate`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from triggers.spec.brokers import QueueRef
from triggers.spec.field_types import (
    Name,
    Path,
    Seconds,
    SecretName,
    SpecError,
    SpecModel,
    Url,
    describe_errors,
)
from triggers.spec.filters import Filter

API_VERSION: Final = "pilotlight.dev/v1alpha1"
KIND: Final = "Trigger"


class Backoff(SpecModel):
    """Waiting before a retry: `initial * factor ** (attempt - 1)`, at most `max`, with jitter."""

    initial: Annotated[Seconds, Field(ge=0.1)] = 1.0
    factor: Annotated[float, Field(strict=False, ge=1, le=100)] = 2.0
    max: Annotated[Seconds, Field(ge=0.1)] = 300.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.initial:
            raise ValueError(f"must have max at or above initial ({self.initial:g}s)")
        return self


class Retry(SpecModel):
    """When a message that failed is tried again, and when it is given up."""

    attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """Deliveries to the function at most, the first one included."""
    backoff: Backoff = Backoff()
    total_time: Annotated[Seconds, Field(ge=1)] | None = None
    """Given up once it has been in the queue for so long and fails again; None: attempts alone decide."""


class Rate(SpecModel):
    """Messages per second at most (a token bucket)."""

    per_second: Annotated[float, Field(strict=False, gt=0, le=100_000)]
    burst: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Messages that may go at once after a pause."""


class Batch(SpecModel):
    """Messages in one request. More than one: `application/cloudevents-batch+json`."""

    size: Annotated[int, Field(ge=1, le=1000)] = 1
    window: Annotated[Seconds, Field(le=300)] = 0.0
    """How long the first message of a batch waits for others."""


class TargetAuth(SpecModel):
    """How the dispatcher shows the target who it is: a Secret in the Trigger's namespace."""

    stage_token: SecretName | None = None
    """Of an agent with `auth`: the Secret `AGENT-stage-token`, whose `current` its stages know."""
    bearer: SecretName | None = None
    """A Secret whose `token` is sent as `Authorization: Bearer`."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.stage_token is None) == (self.bearer is None):
            raise ValueError("must have exactly one of stageToken and bearer")
        return self


class Target(SpecModel):
    """Where events are posted to."""

    service: Name | None = None
    """A Knative Service in the Trigger's namespace."""
    path: Path = "/"
    """With its query; below the Service's or the URL's own path."""
    url: Url | None = None
    """Any other address, instead of `service`."""
    auth: TargetAuth | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.service is None) == (self.url is None):
            raise ValueError("must have exactly one of service and url")
        return self

    def __str__(self) -> str:
        base = self.service if self.service is not None else str(self.url).rstrip("/")
        return base + ("" if self.path == "/" else self.path)


class TriggerTemplate(SpecModel):
    """Everything about a Trigger but its target and the Services to wake."""

    source: QueueRef
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Requests at the same time at most; fewer while the target answers 429 or 503, or gets slower."""
    rate: Rate | None = None
    batch: Batch = Batch()
    format: Literal["binary", "structured"] = "binary"
    """How an event that is not a CloudEvent already is sent."""
    timeout: Annotated[Seconds, Field(ge=1)] = 900.0
    """Of one request, with the cold start that it waits for."""
    retry: Retry = Retry()
    dead_letter: QueueRef | None = None
    """Where messages go that are given up. None: they stay in the queue and are tried ever more seldom."""
    reply: QueueRef | None = None
    """Where answers go: CloudEvents as they are, any other as the data of a CloudEvent."""
    filters: Annotated[tuple[Filter, ...], Field(strict=False, max_length=32)] = ()
    """Events that match not all of them are acknowledged and not sent."""
    paused: bool = False
    """Nothing is taken from the queue; what is under way is finished."""

    @model_validator(mode="after")
    def _replies_to_one(self) -> Self:
        if self.reply is not None and self.batch.size > 1:
            raise ValueError(
                "must have batch.size = 1 with a reply: a batch has one answer for many messages"
            )
        return self

    @model_validator(mode="after")
    def _queues_differ(self) -> Self:
        for name, queue in (("deadLetter", self.dead_letter), ("reply", self.reply)):
            if queue is not None and queue == self.source:
                raise ValueError(f"must have another queue as {name} than as source")
        return self

    def to_wire(self) -> dict[str, Any]:
        """The spec as JSON values, without fields that have their default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class TriggerSpec(TriggerTemplate):
    """The spec of a Trigger object."""

    target: Target
    wake_ahead: Annotated[tuple[Name, ...], Field(strict=False, max_length=32)] = ()
    """Services that are woken the moment a message is seen, beside the target."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The Secrets that its dispatcher needs, each as a folder of its own."""
        queues = [queue for queue in (self.source, self.dead_letter, self.reply) if queue is not None]
        named = [getattr(getattr(queue, queue.kind), "secret", None) for queue in queues]
        auth = self.target.auth
        named += [] if auth is None else [auth.stage_token, auth.bearer]
        return tuple(sorted({name for name in named if name is not None}))

    @classmethod
    def parse(cls, spec: object) -> Self:
        """Read a spec from JSON values.

        Raises:
            SpecError: with one line per problem.
        """
        try:
            return cls.model_validate(spec)
        except ValidationError as error:
            raise SpecError(describe_errors(error)) from None

    def to_object(self, name: str, namespace: str) -> dict[str, Any]:
        """The Trigger object with this spec."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace},
            "spec": self.to_wire(),
        }
