"""What the activator reports to the autoscaler."""

from __future__ import annotations

from dataclasses import dataclass

from knative.local.routing import RevisionKey


@dataclass(frozen=True, slots=True)
class RevisionStat:
    """The load of one Revision in the second that ends at `time_s`."""

    key: RevisionKey
    time_s: float
    concurrency: float
    """Time-weighted mean of the requests in flight, including those that wait for a replica."""
    requests: float
    """Requests that arrived in that second."""
