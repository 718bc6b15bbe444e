"""GPU slots of the machine, and how long they are held.

A slot is a GPU, or a stand-in for one on a machine without; whoever holds a slot pays for it, busy or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from knative.local.routing import RevisionKey

DEVICES = Path("/dev")


class Slots:
    """Which replica holds which of the machine's GPU slots."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._holder: list[str | None] = [None] * total

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._holder.count(None)

    def take(self, holder: str, count: int) -> tuple[int, ...] | None:
        """Give `count` slots to `holder`, lowest numbers first; None when there aren't as many."""
        if count > self.free:
            return None
        slots = [slot for slot, owner in enumerate(self._holder) if owner is None][:count]
        for slot in slots:
            self._holder[slot] = holder
        return tuple(slots)

    def release(self, holder: str) -> None:
        """Take back all that `holder` has."""
        self._holder = [None if owner == holder else owner for owner in self._holder]


def insufficient() -> str:
    """The scheduler's words when no slot is free."""
    return "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def device_environment(slots: tuple[int, ...]) -> dict[str, str]:
    """What makes CUDA see these devices only; nothing where the slots stand for no real device."""
    if not slots or not all((DEVICES / f"nvidia{slot}").exists() for slot in slots):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, slots)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(slots=True)
class _Holding:
    """One replica's slots: how many, for which Revision, since when in the present phase."""

    key: RevisionKey
    service: str
    gpus: int
    since: float
    starting: bool = True


@dataclass(frozen=True, slots=True)
class GpuSeconds:
    """What one Revision's replicas have held so far, in slot seconds."""

    key: RevisionKey
    service: str
    starting: float
    busy: float
    idle: float


@dataclass(slots=True)
class _Account:
    """One Revision's counters; a Revision that is made again under its name goes on with them."""

    service: str
    gpus: int
    starting: float = 0.0
    serving: float = 0.0
    busy: float = 0.0
    seen: float = 0.0  # busy replica seconds already counted; they begin anew with a new Revision
    idle: float = 0.0  # the largest value told so far; a counter never falls


class GpuMeter:
    """Adds up slot seconds by Revision.

    Args:
        clock: seconds, monotonic.
        busy_seconds: replica seconds with at least one request in flight, of a Revision so far.
    """

    def __init__(self, clock: Callable[[], float], busy_seconds: Callable[[RevisionKey], float]) -> None:
        self._clock = clock
        self._busy_seconds = busy_seconds
        self._holdings: dict[str, _Holding] = {}
        self._accounts: dict[RevisionKey, _Account] = {}

    def begin(self, pod: str, key: RevisionKey, service: str, gpus: int) -> None:
        """A replica got its slots."""
        self._holdings[pod] = _Holding(key, service, gpus, self._clock())
        account = self._accounts.setdefault(key, _Account(service, gpus))
        self._settle_busy(key, account)
        account.gpus = gpus

    def set_ready(self, pod: str, *, ready: bool) -> None:
        """A replica became ready, or stopped being so."""
        holding = self._holdings.get(pod)
        if holding is not None and holding.starting is ready:
            self._settle(holding)
            holding.starting = not ready

    def end(self, pod: str) -> None:
        """A replica gave its slots back."""
        holding = self._holdings.pop(pod, None)
        if holding is not None:
            self._settle(holding)

    def settle(self, key: RevisionKey) -> None:
        """Count what the Revision's replicas did so far; for when it is about to be forgotten."""
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

    def totals(self) -> Iterator[GpuSeconds]:
        """All Revisions that ever held a replica."""
        for holding in self._holdings.values():
            self._settle(holding)
        for key, account in self._accounts.items():
            self._settle_busy(key, account)
            account.idle = max(account.idle, account.serving - account.busy)
            yield GpuSeconds(key, account.service, account.starting, account.busy, account.idle)
