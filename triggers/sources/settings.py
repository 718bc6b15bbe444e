"""What a source or destination is told besides the address of its queue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What is not in the address.

    Attributes:
        consumer: names the durable consumer or consumer group: `NAMESPACE/NAME` of the Trigger, the same in
            all processes that share its work.
        lease_s: seconds for which a delivery is wanted, where the broker lets the consumer choose.
        embedded_sqs: URL of an SQS server of this machine's own. Queues that are named without URL, ARN,
            region and endpoint are there, and are made when they are missing. None: they are at AWS.
        environment: where addresses and credentials are read.
    """

    consumer: str = "default/pilotlight"
    lease_s: float = 30.0
    embedded_sqs: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
