"""What a replica needs of the platform, and the order to end that its containers share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from knative.client.resources import Object
from knative.local.apiserver.store import Key
from knative.local.kubelet import gpus as gpu_slots
from knative.local.kubelet.confinement import Confinements
from knative.local.kubelet.downward import Machine
from knative.local.kubelet.logs import Logs
from knative.local.kubelet.ports import Ports
from knative.local.kubelet.probes import Prober
from knative.local.kubelet.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a replica needs of the platform."""

    host: str
    machine: Machine
    workdir: Path
    base_env: Mapping[str, str]
    mark_env: Mapping[str, str]
    """Set over the container's own: whose process it is."""
    backoff_s: float
    """Wait before the second restart in a row; doubles each time."""
    ports: Ports
    prober: Prober
    logs: Logs
    slots: gpu_slots.Slots
    volumes: Volumes
    confinements: Confinements
    now: Callable[[], datetime]
    config_maps: Callable[[str, str], Mapping[str, Any] | None]
    secrets: Callable[[str, str], Mapping[str, Any] | None]
    report: Callable[[Key, Object, Mapping[str, str]], None]
    """Write the pod's status and annotations."""
    slot_freed: Callable[[], Awaitable[None]]
    """Wait until some slot is given back."""
    tell: Callable[[Key, str, str, str], None]
    """Record an Event on the pod: type, reason, message."""
    on_scheduled: Callable[[Key], None]
    on_ready: Callable[[Key, bool], None]
    drained: Callable[[Key, float], Awaitable[bool]]
    """Wait until no request is in flight there, for so many seconds at most."""


class Ending:
    """Whether a pod has been told to end, and how."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        """From SIGTERM to SIGKILL, the wait for requests in flight included."""
        self.drain = True
        """Whether requests in flight are waited for."""
        self._ordered = asyncio.Event()

    @property
    def ordered(self) -> bool:
        """Whether it has been."""
        return self._ordered.is_set()

    def order(self, *, grace_s: float | None, drain: bool) -> None:
        """Tell it to end; a second order may shorten the grace."""
        if grace_s is not None:
            self.grace_s = grace_s
        self.drain = self.drain and drain
        self._ordered.set()

    async def wait(self) -> None:
        """Until the order comes."""
        await self._ordered.wait()

    async def unless_ordered(self, waiting: Awaitable[Any]) -> bool:
        """Wait, but no longer than until the order comes; True if it was waited out."""
        task = asyncio.ensure_future(waiting)
        ending = asyncio.ensure_future(self._ordered.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            return not self._ordered.is_set()
        finally:
            for pending in (task, ending):
                pending.cancel()
