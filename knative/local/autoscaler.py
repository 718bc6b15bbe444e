"""The autoscaler's effects: windows fed by the activator, decisions of the pure `kpa` and `scaler`, told to its owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from knative.local.routing import RevisionKey, RevisionSpec
from knative.local.stats import RevisionStat


class ActiveStatus(StrEnum):
    """The PodAutoscaler's `Active` condition, in Kubernetes' words."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Mode(StrEnum):
    """Which window the autoscaler follows."""

    STABLE = "stable"
    PANIC = "panic"


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """What a Revision should have now, after bounds and the scale-to-zero rules."""

    replicas: int | None
    """Desired replicas; None: no data to scale on yet, keep what is there."""
    active: ActiveStatus
    reason: str
    """The condition's reason: `NoTraffic`, `Queued`, `NotReady`, `TimedOut` or empty when active."""
    message: str


@dataclass(frozen=True, slots=True)
class AutoscalerStatus:
    """What `pilotlight top` and a PodAutoscaler's status show."""

    decision: ScaleDecision
    wanted: int | None
    """What the windows alone ask for, before bounds; None: unknown."""
    mode: Mode
    excess_burst_capacity: int | None
    stable_average: float | None
    panic_average: float | None
    target: float
    serving_mode: str
    """`Serve` or `Proxy`, as in a ServerlessService's spec."""


class Autoscaler:
    """Decides how many replicas each Revision should have.

    Args:
        clock: seconds, monotonic; the one that the activator got.
        on_scale: told each time a Revision's decision differs from the one before. It runs on the event loop inside
            `record`, `set_*` or a tick and must return quickly.
    """

    def __init__(
        self, clock: Callable[[], float], on_scale: Callable[[RevisionKey, ScaleDecision], None]
    ) -> None:
        self._clock = clock
        self._on_scale = on_scale

    def set_revision(self, spec: RevisionSpec, *, ever_ready: bool = False) -> None:
        """Add or change a Revision; bounds act at once (a floor that moves needs no tick).

        `ever_ready`: it reached its initial scale before (known from its status after a restart), so `initial-scale`
        no longer counts.
        """
        raise NotImplementedError

    def forget(self, key: RevisionKey) -> None:
        """Drop a Revision."""
        raise NotImplementedError

    def set_pods(self, key: RevisionKey, ready: int, total: int) -> None:
        """Replicas that are running and ready, and all that exist."""
        raise NotImplementedError

    def record(self, stats: Sequence[RevisionStat]) -> None:
        """Take reports of the data path; one on a Revision at zero is acted on at once."""
        raise NotImplementedError

    def status(self, key: RevisionKey) -> AutoscalerStatus:
        """The latest decision and what it rests on.

        Raises:
            KeyError: no such Revision.
        """
        raise NotImplementedError

    def tick(self) -> None:
        """Decide for all Revisions now (what `run` does every two seconds)."""
        raise NotImplementedError

    async def run(self) -> None:
        """Tick every two seconds until cancelled."""
        raise NotImplementedError
