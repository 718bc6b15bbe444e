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
        create: make a queue that is missing, with the broker's defaults. For embedded brokers only.
        environment: where addresses and credentials are read.
    """

    consumer: str = "default/pilotlight"
    lease_s: float = 30.0
    create: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
