"""The autoscaler's effects: windows fed by the activator, decided by `kpa` and `scaler`, told to their owner.

On a cluster the autoscaler also scrapes the replicas, which adds the requests that bypass the activator. On
one machine none does, so a replica that is ready adds a zero each second: the same sum. One difference is
meant: activator and autoscaler start together here, so after a restart "no data" is known to be "no
traffic", and a floor raised on a Revision at zero acts at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from knative.autoscaling import kpa, scaler
from knative.autoscaling.annotations import Algorithm, AutoscalingSpec, Metric
from knative.autoscaling.scaler import ActiveStatus, ServingMode
from knative.autoscaling.windows import LinearWindow, WeightedWindow
from knative.local.routing import RevisionKey, RevisionSpec
from knative.local.stats import RevisionStat

__all__ = ["ActiveStatus", "Autoscaler", "AutoscalerStatus", "ScaleDecision", "ServingMode"]

SCRAPE_S = 1.0
WINDOWS: dict[Algorithm, type[LinearWindow]] = {
    Algorithm.LINEAR: LinearWindow,
    Algorithm.WEIGHTED_EXPONENTIAL: WeightedWindow,
}


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """What a Revision should have now, after bounds and the scale-to-zero rules."""

    replicas: int
    """Desired replicas."""
    active: ActiveStatus
    reason: str
    """The condition's reason: `NoTraffic`, `Queued`, `TimedOut`, or empty when active."""
    message: str
    initialized: bool
    """The initial scale has been reached once (the `ScaleTargetInitialized` condition)."""


@dataclass(frozen=True, slots=True)
class AutoscalerStatus:
    """What a live table and a PodAutoscaler's status show."""

    decision: ScaleDecision
    wanted: int | None
    """What the averages alone ask for, before bounds; None: no data yet."""
    panicking: bool
    excess_burst_capacity: int
    serving_mode: ServingMode
    stable_average: float
    panic_average: float
    target: float
    ready: int
    total: int


def _windows(spec: AutoscalingSpec) -> tuple[LinearWindow, LinearWindow]:
    kind = WINDOWS[spec.algorithm]
    return kind(spec.window_s), kind(kpa.panic_window_s(spec.window_s, spec.panic_window_percentage))


class _Entry:
    """One Revision: its settings, its windows and what the last decision left."""

    def __init__(self, spec: RevisionSpec, now: float, remembered: int | None) -> None:
        autoscaling = spec.autoscaling
        self.ready = 0
        self.total = 0
        self.recheck_at: float | None = None
        self.mode = ServingMode.PROXY
        if remembered is None:
            self.replicas = autoscaling.initial_scale
            self.wish: int | None = None
            self.scaler = scaler.initial_state(now)
            self.kpa = kpa.KpaState()
        else:
            self.replicas = remembered
            self.wish = None if remembered else 0
            self.scaler = scaler.restored_state(now, replicas=remembered)
            self.kpa = kpa.initial_state(remembered, now)
        self.spec = spec
        self.stable, self.panic = _windows(autoscaling)
        self.adopt(spec, now)
        self.excess_burst_capacity = kpa.initial_excess_burst_capacity(autoscaling, self.decider.total)
        self.decision: ScaleDecision | None = None

    def adopt(self, spec: RevisionSpec, now: float) -> None:
        """Take (changed) settings; windows keep what they hold unless what they measure has changed."""
        before, new = self.spec.autoscaling, spec.autoscaling
        if (before.metric, before.algorithm) != (new.metric, new.algorithm):
            self.stable, self.panic = _windows(new)
        else:
            self.stable.resize(new.window_s, now)
            self.panic.resize(kpa.panic_window_s(new.window_s, new.panic_window_percentage), now)
        self.spec = spec
        self.decider = kpa.decider_spec(
            new, spec.container_concurrency, reachable=spec.reachable, config=spec.scaling_config
        )
        self.scaler_spec = scaler.ScalerSpec(
            new, spec.reachable, spec.progress_deadline_s, spec.scaling_config
        )

    def record(self, now: float, *, concurrency: float, requests: float) -> None:
        value = requests if self.spec.autoscaling.metric is Metric.RPS else concurrency
        self.stable.record(now, value)
        self.panic.record(now, value)

    def decide(self, now: float) -> bool:
        """Renew the wish; True when a reconcile is due because of it."""
        if self.stable.is_empty(now) and not self.wish:
            return False
        seen = kpa.Observation(self.ready, self.stable.average(now), self.panic.average(now))
        self.kpa, wish = kpa.step(self.kpa, self.decider, seen, now)
        changed = wish.replicas != self.wish or (wish.excess_burst_capacity < 0) != (
            self.excess_burst_capacity < 0
        )
        self.wish, self.excess_burst_capacity = wish.replicas, wish.excess_burst_capacity
        return changed

    def reconcile(self, now: float) -> None:
        """Apply bounds and the scale-to-zero rules to the wish."""
        self.scaler, outcome = scaler.reconcile(
            self.scaler_spec,
            self.scaler,
            wish=self.wish,
            excess_burst_capacity=self.excess_burst_capacity,
            ready=self.ready,
            now=now,
        )
        self.mode, self.recheck_at = outcome.mode, outcome.recheck_at
        if outcome.replicas is not None:
            self.replicas = outcome.replicas

    def is_awake(self, now: float) -> bool:
        """Time alone can change something; else only a report or a change of settings does."""
        return bool(
            self.ready
            or self.total
            or self.replicas
            or self.wish
            or self.recheck_at is not None
            or not self.stable.is_empty(now)
        )

    def current(self) -> ScaleDecision:
        state = self.scaler
        return ScaleDecision(self.replicas, state.active, state.reason, state.message, state.initialized)


class Autoscaler:
    """Decides how many replicas each Revision should have.

    Everything runs on one event loop; nothing here blocks or awaits but `run`.

    Args:
        clock: seconds, monotonic; the one that the activator got.
        on_scale: told each time a Revision's decision differs from the one before, the first included. It is
            called inside `record`, `set_*` and `tick` and must return quickly; it may call back into the
            autoscaler.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_scale: Callable[[RevisionKey, ScaleDecision], None],
    ) -> None:
        self._clock = clock
        self._on_scale = on_scale
        self._entries: dict[RevisionKey, _Entry] = {}
        self._awake: set[RevisionKey] = set()

    def set_revision(self, spec: RevisionSpec, *, remembered: int | None = None) -> None:
        """Add or change a Revision, or what `config-autoscaler` says of it; bounds act at once.

        `remembered` counts for a Revision that is new here but once reached its initial scale (as its status
        told before a restart): the replicas it was meant to have. Its initial scale then no longer matters.
        """
        now = self._clock()
        entry = self._entries.get(spec.key)
        if entry is None:
            entry = self._entries[spec.key] = _Entry(spec, now, remembered)
        elif spec == entry.spec:
            return
        else:
            entry.adopt(spec, now)
        self._reconcile(entry, now)

    def forget(self, key: RevisionKey) -> None:
        """Drop a Revision."""
        self._entries.pop(key, None)
        self._awake.discard(key)

    def set_pods(self, key: RevisionKey, ready: int, total: int) -> None:
        """Replicas that are running and ready, and all that exist. Unknown Revisions are ignored."""
        entry = self._entries.get(key)
        if entry is None or (entry.ready, entry.total) == (ready, total):
            return
        entry.ready, entry.total = ready, total
        self._reconcile(entry, self._clock())

    def record(self, stats: Sequence[RevisionStat]) -> None:
        """Take reports of the data path; one on a Revision that nothing wanted is acted on at once."""
        for stat in stats:
            entry = self._entries.get(stat.key)
            if entry is None:
                continue
            entry.record(stat.time_s, concurrency=stat.concurrency, requests=stat.requests)
            self._awake.add(stat.key)
            if not entry.wish and stat.concurrency:
                self._decide(entry, self._clock())

    def status(self, key: RevisionKey) -> AutoscalerStatus:
        """The latest decision and what it rests on.

        Raises:
            KeyError: no such Revision.
        """
        entry = self._entries[key]
        now = self._clock()
        return AutoscalerStatus(
            decision=entry.current(),
            wanted=entry.wish,
            panicking=entry.kpa.panicking,
            excess_burst_capacity=entry.excess_burst_capacity,
            serving_mode=entry.mode,
            stable_average=entry.stable.average(now),
            panic_average=entry.panic.average(now),
            target=entry.decider.target,
            ready=entry.ready,
            total=entry.total,
        )

    def keys(self) -> Iterable[RevisionKey]:
        """The Revisions known."""
        return tuple(self._entries)

    @property
    def awake(self) -> int:
        """Revisions that are looked at each second; the others cost nothing until something happens."""
        return len(self._awake)

    def second(self) -> None:
        """What each second brings: a report of every ready replica, and what time alone has made due."""
        now = self._clock()
        for entry in self._waking():
            if entry.ready and entry.decider.target_burst_capacity != -1:
                entry.record(now, concurrency=0.0, requests=0.0)
            if entry.recheck_at is not None and entry.recheck_at <= now:
                self._reconcile(entry, now)

    def tick(self) -> None:
        """Decide for all Revisions now."""
        now = self._clock()
        for entry in self._waking():
            self._decide(entry, now)
            if not entry.is_awake(now):
                self._awake.discard(entry.spec.key)

    async def run(self) -> None:
        """Look each second, decide every two, until cancelled."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for beat in range(1, 1 << 62):
            # Missed beats (a suspended machine) are skipped, not made up for.
            late = math.floor(loop.time() - begun) - beat
            begun += max(0, late)
            await asyncio.sleep(begun + beat * SCRAPE_S - loop.time())
            self.second()
            if beat % round(kpa.TICK_S / SCRAPE_S) == 0:
                self.tick()

    def _waking(self) -> list[_Entry]:
        return [entry for key in tuple(self._awake) if (entry := self._entries.get(key))]

    def _decide(self, entry: _Entry, now: float) -> None:
        if entry.decide(now):
            self._reconcile(entry, now)

    def _reconcile(self, entry: _Entry, now: float) -> None:
        self._awake.add(entry.spec.key)
        entry.reconcile(now)
        decision = entry.current()
        if decision != entry.decision:
            entry.decision = decision
            self._on_scale(entry.spec.key, decision)
