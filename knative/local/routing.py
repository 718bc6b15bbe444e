"""The values that the controllers pass to the activator and the autoscaler."""

from __future__ import annotations

from dataclasses import dataclass, field

from knative.autoscaling.annotations import AutoscalingSpec
from knative.autoscaling.config import DEFAULT_CONFIG, AutoscalerConfig


@dataclass(frozen=True, slots=True, order=True)
class RevisionKey:
    """A Revision's identity."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class RevisionSpec:
    """The settings of one Revision that the activator and the autoscaler need."""

    key: RevisionKey
    service: str
    container_concurrency: int = 0
    """Requests that one replica may handle at a time; 0: no limit."""
    timeout_s: float = 300.0
    """Seconds for the whole request, including the wait for a replica (`timeoutSeconds`)."""
    response_start_timeout_s: float | None = None
    """Seconds until the first byte of the response (`responseStartTimeoutSeconds`)."""
    idle_timeout_s: float | None = None
    """Seconds between two chunks of the response (`idleTimeoutSeconds`)."""
    allowed_origins: frozenset[str] | None = None
    """Origins of web pages that may call it, in lower case; None: it answers preflights itself."""
    answers_health: bool = False
    """A model's stage: `/health` and `/ping` say whether a request would be answered, and wake nothing."""
    autoscaling: AutoscalingSpec = field(default_factory=AutoscalingSpec)
    scaling_config: AutoscalerConfig = DEFAULT_CONFIG
    """`config-autoscaler`, for what no annotation sets."""
    reachable: bool = True
    """Whether a Route leads to it; else its min-scale is ignored and it shrinks without a rate limit."""
    progress_deadline_s: float = 600.0
    """Seconds that a Revision may take to become ready for the first time."""


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why a Revision's replicas do not start, for those who ask for it."""

    revision: str
    """Its name; empty if a Route leads to none."""
    reason: str
    """The condition's reason, in one word."""
    message: str
    retryable: bool
    """Whether the same Revision may still start; else only another one can."""


@dataclass(frozen=True, slots=True)
class TrafficTarget:
    """One entry of a Route's traffic: `percent` of the Service's own URL, and a URL of its own if tagged."""

    revision: RevisionKey
    percent: int
    tag: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """The address of one ready pod."""

    pod: str
    host: str
    port: int
    tls: bool = False
    """It speaks TLS, and expects a certificate of its client."""
