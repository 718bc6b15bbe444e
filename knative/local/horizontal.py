"""Class hpa's effects: what replicas use, measured, decided on by `hpa`, told to their owner.

On a cluster these are three programs: metrics-server measures and the HorizontalPodAutoscaler's controller
decides, each 15 seconds; Knative only writes the HorizontalPodAutoscaler. Here one beat measures and decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from knative import hpa
from knative.hpa import HpaState, Outcome
from knative.hpa_spec import HpaSpec
from knative.local.meter import Meter, Used
from knative.local.routing import RevisionKey
from knative.utilization import Observation, Pod

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HorizontalStatus:
    """What a HorizontalPodAutoscaler's status shows."""

    settings: HpaSpec | None
    """None: Kubernetes refuses it."""
    replicas: int
    state: HpaState
    scaled_at: float | None
    """When the number last changed."""


class _Entry:
    def __init__(self, replicas: int) -> None:
        self.settings: HpaSpec | None = None
        self.replicas = replicas
        self.state = HpaState()
        self.scaled_at: float | None = None


class HorizontalAutoscaler:
    """Decides how many replicas each Revision of class hpa should have.

    Everything runs on one event loop; only `beat` awaits, and what it awaits is the measuring.

    Args:
        clock: seconds since the epoch, for it is compared with what pods say of themselves.
        usages: what each replica that runs uses, by namespace and pod.
        pods: a Revision's replicas; their requests of the named resource.
        on_change: told when a Revision's status differs from the one before.
        interval_s: between two beats.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        usages: Callable[[], Awaitable[Mapping[tuple[str, str], Used]]],
        pods: Callable[[RevisionKey, str], Sequence[Pod]],
        on_change: Callable[[RevisionKey, Outcome], None],
        interval_s: float = hpa.SYNC_S,
    ) -> None:
        self._clock = clock
        self._usages = usages
        self._pods = pods
        self._on_change = on_change
        self._interval_s = interval_s
        self._entries: dict[RevisionKey, _Entry] = {}
        self._meter: Meter[tuple[str, str]] = Meter()

    def set_revision(self, key: RevisionKey, settings: HpaSpec | None, *, replicas: int) -> None:
        """Add or change a Revision; bounds act at once.

        Args:
            key: the Revision.
            settings: its settings; None: Kubernetes refuses them, and those before go on to count.
            replicas: what a new one begins with.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(replicas)
        if settings is None or settings == entry.settings:
            return
        entry.settings = settings
        if entry.replicas and not settings.least <= entry.replicas <= settings.most:
            self._decide(key, entry, self._clock())

    def forget(self, key: RevisionKey) -> None:
        """Drop a Revision."""
        self._entries.pop(key, None)

    def status(self, key: RevisionKey) -> HorizontalStatus | None:
        """The latest decision and what it rests on; None: no such Revision."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        return HorizontalStatus(entry.settings, entry.replicas, entry.state, entry.scaled_at)

    async def run(self) -> None:
        """Measure and decide until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.beat()
            except (OSError, RuntimeError):  # no descriptor, no thread: the next beat may have one
                log.exception("could not measure what replicas use")

    async def beat(self) -> None:
        """Measure all replicas and decide for all Revisions."""
        if not self._entries:
            return
        used = await self._usages()
        now = self._clock()
        self._meter.read(now, used)
        for key, entry in tuple(self._entries.items()):
            try:
                self._decide(key, entry, now)
            except Exception:  # a pod's status may hold anything: the others go on being scaled
                log.exception("could not decide on %s", key)

    def _decide(self, key: RevisionKey, entry: _Entry, now: float) -> None:
        if entry.settings is None:
            return
        resource = entry.settings.target.resource
        pods = self._pods(key, resource)
        samples = {
            pod.name: measured.sample(resource)
            for pod in pods
            if (measured := self._meter.measured.get((key.namespace, pod.name))) is not None
        }
        before = replace(entry.state, recommended=None)
        entry.state, outcome = hpa.step(
            entry.state, entry.settings, entry.replicas, Observation(now, pods, samples)
        )
        changed = outcome.replicas != entry.replicas
        if changed:
            entry.scaled_at = now
        entry.replicas = outcome.replicas
        if changed or outcome.failures or before != replace(entry.state, recommended=None):
            self._on_change(key, outcome)
