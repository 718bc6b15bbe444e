"""What the data path reports to the autoscaler."""

from __future__ import annotations

from dataclasses import dataclass

from knative.local.routing import RevisionKey


@dataclass(frozen=True, slots=True)
class RevisionStat:
    """One source's report on one Revision for the second that ends at `time_s`."""

    key: RevisionKey
    time_s: float
    concurrency: float
    """Time-weighted mean of requests in flight, the ones that wait for a replica included."""
    requests: float
    """Requests that arrived in that second."""
