"""GPU slots of the machine, and how long they are held.

A slot is a GPU, or a placeholder for one on a machine without. A pod is charged for the slots that it holds,
whether it serves requests or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from knative.local.routing import RevisionKey

DEVICES = Path("/dev")
INSUFFICIENT = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
"""The scheduler's message when too few slots are free."""


class GpuSlots:
    """Which pod holds which of the machine's GPU slots."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._holder: list[str | None] = [None] * total

    @property
    def free(self) -> int:
        """The number of slots that no pod holds."""
        return self._holder.count(None)

    def take(self, holder: str, count: int) -> tuple[int, ...] | None:
        """Give `count` slots to `holder`, lowest numbers first; None if fewer are free."""
        if count > self.free:
            return None
        slots = [slot for slot, owner in enumerate(self._holder) if owner is None][:count]
        for slot in slots:
            self._holder[slot] = holder
        return tuple(slots)

    def release(self, holder: str) -> None:
        """Free all slots of `holder`."""
        self._holder = [None if owner == holder else owner for owner in self._holder]


def device_environment(slots: tuple[int, ...]) -> dict[str, str]:
    """Variables that make CUDA see these devices only; none where a slot is a placeholder."""
    if not slots or not all((DEVICES / f"nvidia{slot}").exists() for slot in slots):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, slots)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(slots=True)
class _Holding:
    """One pod's slots: how many, of which Revision, and since when it has been starting or ready."""

    key: RevisionKey
    service: str
    gpus: int
    since: float
    starting: bool = True


@dataclass(frozen=True, slots=True)
class RevisionGpuSeconds:
    """Seconds for which one Revision's pods have held slots so far, times the number of slots."""

    key: RevisionKey
    service: str
    starting: float
    busy: float
    idle: float


@dataclass(slots=True)
class _Account:
    """One Revision's counters; a Revision created again under its name continues them."""

    service: str
    gpus: int
    starting: float = 0.0
    serving: float = 0.0
    busy: float = 0.0
    seen: float = 0.0  # busy pod seconds already counted; they restart at zero with a new Revision
    idle: float = 0.0  # the largest value reported so far; a counter never decreases


class GpuMeter:
    """Adds up the seconds for which GPU slots are held, by Revision.

    Args:
        clock: seconds, monotonic.
        busy_seconds: seconds with at least one request in flight, summed over a Revision's pods so far.
    """

    def __init__(self, clock: Callable[[], float], busy_seconds: Callable[[RevisionKey], float]) -> None:
        self._clock = clock
        self._busy_seconds = busy_seconds
        self._holdings: dict[str, _Holding] = {}
        self._accounts: dict[RevisionKey, _Account] = {}

    def begin(self, pod: str, key: RevisionKey, service: str, gpus: int) -> None:
        """A pod took its slots."""
        self._holdings[pod] = _Holding(key, service, gpus, self._clock())
        account = self._accounts.setdefault(key, _Account(service, gpus))
        self._settle_busy(key, account)
        account.gpus = gpus

    def set_ready(self, pod: str, *, ready: bool) -> None:
        """A pod became ready, or unready."""
        holding = self._holdings.get(pod)
        if holding is not None and holding.starting is ready:
            self._settle(holding)
            holding.starting = not ready

    def end(self, pod: str) -> None:
        """A pod released its slots."""
        holding = self._holdings.pop(pod, None)
        if holding is not None:
            self._settle(holding)

    def settle(self, key: RevisionKey) -> None:
        """Count the Revision's busy seconds so far; called before the activator forgets the Revision."""
        account = self._accounts.get(key)
        if account is not None:
            self._settle_busy(key, account)

    def _settle(self, holding: _Holding) -> None:
        now = self._clock()
        account = self._accounts[holding.key]
        seconds = (now - holding.since) * holding.gpus
        if holding.starting:
            account.starting += seconds
        else:
            account.serving += seconds
        holding.since = now
        self._settle_busy(holding.key, account)

    def _settle_busy(self, key: RevisionKey, account: _Account) -> None:
        seconds = self._busy_seconds(key)
        fresh = seconds - account.seen if seconds >= account.seen else seconds
        account.busy += fresh * account.gpus
        account.seen = seconds

    def totals(self) -> Iterator[RevisionGpuSeconds]:
        """All Revisions that ever had a pod."""
        for holding in self._holdings.values():
            self._settle(holding)
        for key, account in self._accounts.items():
            self._settle_busy(key, account)
            account.idle = max(account.idle, account.serving - account.busy)
            yield RevisionGpuSeconds(key, account.service, account.starting, account.busy, account.idle)
