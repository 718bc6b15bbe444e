"""Where a queue is: one model for each kind of broker, and `QueueRef`, which has exactly one of them (pure).

Credentials have no field here: they come from the environment, and on a cluster from a Secret.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from triggers.spec.field_types import QueueName, SpecModel


class SqsQueue(SpecModel):
    """A queue of Amazon SQS. Credentials: the usual AWS chain."""

    queue: QueueName
    """Name, URL or ARN. A name that ends in `.fifo` is a FIFO queue."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    """None: that of the URL or the ARN, else that of the usual AWS chain."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^@\s]+$", max_length=1024)] | None = None
    """None: that of the usual AWS chain (`AWS_ENDPOINT_URL_SQS`), and on one machine the embedded server."""


class QueueRef(SpecModel):
    """A queue of one broker: `{sqs: {queue: orders}}`."""

    sqs: SqsQueue | None = None

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
