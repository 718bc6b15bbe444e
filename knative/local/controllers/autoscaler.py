"""The autoscaler's effects: feeds each Revision's `RevisionAutoscaler` with reports and ready replicas.

On a cluster the autoscaler also scrapes the replicas for requests that bypass the activator. Here none does,
so each ready replica contributes a zero each second, which gives the same sum. One difference is intended:
activator and autoscaler start together, so after a restart "no data" is known to mean "no traffic", and a
floor raised on a Revision at zero takes effect at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from knative.autoscaling import kpa
from knative.autoscaling.revision_autoscaler import RevisionAutoscaler, RevisionScaling, ScaleDecision
from knative.autoscaling.scaler import ServingMode
from knative.local.routing import RevisionKey, RevisionSpec
from knative.local.stats import RevisionStat

SCRAPE_S = 1.0


@dataclass(frozen=True, slots=True)
class AutoscalerStatus:
    """The latest decision and the values behind it."""

    decision: ScaleDecision
    wanted: int | None
    """The replicas that the averages ask for, before bounds; None: no data yet."""
    panicking: bool
    excess_burst_capacity: int
    serving_mode: ServingMode
    stable_average: float
    panic_average: float
    target: float
    ready: int
    total: int


class Autoscaler:
    """Decides how many replicas each Revision should have.

    Everything runs on one event loop; nothing here blocks or awaits but `run`.

    Args:
        clock: seconds, monotonic; the activator's.
        on_scale: called with each decision for a Revision that differs from the one before, from inside
            `record`, `set_*` and `tick`. It must return quickly and may call back into the autoscaler.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_scale: Callable[[RevisionKey, ScaleDecision], None],
    ) -> None:
        self._clock = clock
        self._on_scale = on_scale
        self._entries: dict[RevisionKey, RevisionAutoscaler] = {}
        self._awake: set[RevisionKey] = set()

    def set_revision(self, spec: RevisionSpec, *, remembered: int | None = None) -> None:
        """Add or change a Revision; its bounds take effect at once.

        Args:
            spec: the Revision, and `config-autoscaler` for what it leaves out.
            remembered: for a Revision that reached its initial scale before a restart: the replicas that it
                was to have; its initial scale then no longer matters.
        """
        now = self._clock()
        scaling = RevisionScaling(
            spec.autoscaling,
            spec.container_concurrency,
            spec.reachable,
            spec.progress_deadline_s,
            spec.scaling_config,
        )
        entry = self._entries.get(spec.key)
        if entry is None:
            entry = self._entries[spec.key] = RevisionAutoscaler(scaling, now, remembered)
        elif scaling == entry.spec:
            return
        else:
            entry.adopt(scaling, now)
        self._reconcile(spec.key, entry, now)

    def forget(self, key: RevisionKey) -> None:
        """Drop a Revision."""
        self._entries.pop(key, None)
        self._awake.discard(key)

    def set_pods(self, key: RevisionKey, ready: int, total: int) -> None:
        """Set how many replicas are ready, and how many exist. An unknown Revision is ignored."""
        entry = self._entries.get(key)
        if entry is None or (entry.ready, entry.total) == (ready, total):
            return
        entry.ready, entry.total = ready, total
        self._reconcile(key, entry, self._clock())

    def record(self, stats: Sequence[RevisionStat]) -> None:
        """Take reports of the activator; one for a Revision at zero is decided on at once."""
        for stat in stats:
            entry = self._entries.get(stat.key)
            if entry is None:
                continue
            entry.record(stat.time_s, concurrency=stat.concurrency, requests=stat.requests)
            self._awake.add(stat.key)
            if not entry.desired_scale and stat.concurrency:
                self._decide(stat.key, entry, self._clock())

    def decision(self, key: RevisionKey) -> ScaleDecision | None:
        """The latest decision; None: no such Revision."""
        entry = self._entries.get(key)
        return None if entry is None else entry.current()

    def status(self, key: RevisionKey) -> AutoscalerStatus:
        """The latest decision and the values behind it.

        Raises:
            KeyError: no such Revision.
        """
        entry = self._entries[key]
        now = self._clock()
        return AutoscalerStatus(
            decision=entry.current(),
            wanted=entry.desired_scale,
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
        """How many Revisions are looked at each second; the others are idle at zero and cost nothing."""
        return len(self._awake)

    def second(self) -> None:
        """Do what is due each second: a sample for each ready replica, and decisions that time changes."""
        now = self._clock()
        for key, entry in self._waking():
            if entry.ready and entry.decider.target_burst_capacity != -1:
                entry.record(now, concurrency=0.0, requests=0.0)
            if entry.recheck_at is not None and entry.recheck_at <= now:
                self._reconcile(key, entry, now)

    def tick(self) -> None:
        """Decide for all Revisions now."""
        now = self._clock()
        for key, entry in self._waking():
            self._decide(key, entry, now)
            if not entry.is_awake(now):
                self._awake.discard(key)

    async def run(self) -> None:
        """Call `second` each second and `tick` every two, until cancelled."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for beat in range(1, 1 << 62):
            # Seconds missed while the machine was suspended are skipped.
            late = math.floor(loop.time() - begun) - beat
            begun += max(0, late)
            await asyncio.sleep(begun + beat * SCRAPE_S - loop.time())
            self.second()
            if beat % round(kpa.TICK_S / SCRAPE_S) == 0:
                self.tick()

    def _waking(self) -> list[tuple[RevisionKey, RevisionAutoscaler]]:
        return [(key, entry) for key in tuple(self._awake) if (entry := self._entries.get(key))]

    def _decide(self, key: RevisionKey, entry: RevisionAutoscaler, now: float) -> None:
        if entry.decide(now):
            self._reconcile(key, entry, now)

    def _reconcile(self, key: RevisionKey, entry: RevisionAutoscaler, now: float) -> None:
        self._awake.add(key)
        entry.reconcile(now)
        decision = entry.current()
        if decision != entry.decision:
            entry.decision = decision
            self._on_scale(key, decision)
