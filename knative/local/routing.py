"""The values that the control plane hands to the activator and the autoscaler."""

from __future__ import annotations

from dataclasses import dataclass, field

from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.config import DEFAULT_CONFIG, Config


@dataclass(frozen=True, slots=True, order=True)
class RevisionKey:
    """A Revision's identity."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class RevisionSpec:
    """What the data path and the autoscaler need to know of one Revision."""

    key: RevisionKey
    service: str
    container_concurrency: int = 0
    """Requests that one replica handles at a time; 0: no limit."""
    timeout_s: float = 300.0
    """For the whole request (`timeoutSeconds`); waiting for a replica counts."""
    response_start_timeout_s: float | None = None
    """Until the first byte of the response (`responseStartTimeoutSeconds`)."""
    idle_timeout_s: float | None = None
    """Between two pieces of the response (`idleTimeoutSeconds`)."""
    autoscaling: AutoscalingSpec = field(default_factory=AutoscalingSpec)
    scaling_config: Config = DEFAULT_CONFIG
    """`config-autoscaler`, for what no annotation says; it changes together with `autoscaling`."""
    reachable: bool = True
    """Some route leads to it; else its floor is ignored and it shrinks without a rate limit."""
    progress_deadline_s: float = 600.0
    """How long a Revision may take to its first readiness."""


@dataclass(frozen=True, slots=True)
class Split:
    """One entry of a Route's traffic: `percent` of the Service's own URL, and a URL of its own if tagged."""

    revision: RevisionKey
    percent: int
    tag: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where one ready replica listens."""

    pod: str
    host: str
    port: int
