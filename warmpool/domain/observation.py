"""What a policy knows when it decides. A reading that could not be taken is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.signals import SignalReading

DEFAULT_LEAD = timedelta(seconds=90)
"""Lead time while no cold start of the Service has been measured: longer than a small model's start."""


DEFAULT_DRAIN = timedelta(seconds=90)
"""How long Knative keeps a replica after its floor fell, by default: stable window and grace period."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The requests of one Service as last read."""

    concurrency: float | None
    """Requests in flight, including those that wait for a replica, averaged over the metric's window.

    None: there is such a metric and it cannot be read."""
    last_active: datetime | None = None
    """The latest instant at which there was a request; None: none is known."""
    backlog: int | None = None
    """Messages that wait in a queue for this Service; None: no source reports them."""
    arrivals: float | None = None
    """Requests that arrived since the previous reading; None: no source counts them."""
    unreadable_backlog: str | None = None
    """A series of the backlog that cannot be read, and what it says; `backlog` is without it."""
    unreadable_concurrency: str | None = None
    """The same for requests in flight."""
    unreadable_arrivals: str | None = None
    """The same for arrivals."""


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator's request to keep at least this many replicas until then."""

    replicas: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything a decision about one pool is made from, besides the instant."""

    pool: WarmPoolTemplate
    lead: timedelta = DEFAULT_LEAD
    """How much earlier than a window opens its floor rises."""
    cold_start: timedelta | None = None
    """The p95 of the Service's whole cold start, as measured."""
    cold_start_median: timedelta | None = None
    """Its median."""
    demand: Demand | None = None
    """None: no source could be read."""
    backlog_expected: bool = False
    """Whether a queue feeds this Service, so that a missing backlog is a missing reading."""
    signals: Mapping[str, SignalReading] = field(default_factory=dict)
    """Readings of the pool's signals by name; one that is left out has no source."""
    ready: int = 0
    """Replicas of the Service that are ready."""
    requests_per_replica: float = 1.0
    """How many requests one replica takes at a time, for turning a backlog into replicas."""
    price: ReplicaPrice | None = None
    """None: the Service's GPU has no price."""
    spent: Decimal | None = Decimal(0)
    """What the pool has cost in the current budget period; None: the account is lost."""
    hold: Hold | None = None
    charged: Floor = NOTHING
    """What is charged to the pool at present: the floors of all its Revisions, those that drain included."""
    drain: timedelta = DEFAULT_DRAIN
    """How long Knative may keep a replica after its floor fell."""
