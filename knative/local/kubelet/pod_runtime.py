"""What the workers of all pods share, and the request to terminate that one pod's containers share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from knative.client.resources import Object
from knative.local.apiserver.records import Key
from knative.local.kubelet.gpus import GpuSlots
from knative.local.kubelet.limit_enforcer import LimitEnforcer
from knative.local.kubelet.logs import ContainerLogs
from knative.local.kubelet.ports import PortAllocator
from knative.local.kubelet.preimported import Forkserver
from knative.local.kubelet.probes import Prober
from knative.local.kubelet.volumes import Volumes


@dataclass(frozen=True, slots=True)
class PodRuntime:
    """What a pod's worker needs to run containers, and the kubelet's callbacks."""

    host: str
    """Address that every container shares with its pod and with the node."""
    workdir: Path
    """Where a container runs that names no workingDir."""
    base_env: Mapping[str, str]
    """Environment below the container's own variables."""
    service_env: Callable[[Key], Mapping[str, str]]
    """The part of that environment that depends on the pod's Service."""
    identity_env: Mapping[str, str]
    """Environment above the container's own variables: the platform that its processes belong to."""
    backoff_s: float
    """Wait before the second restart in a row, in seconds; doubles each time."""
    ports: PortAllocator
    prober: Prober
    logs: ContainerLogs
    slots: GpuSlots
    volumes: Volumes
    limits: LimitEnforcer
    forkserver: Forkserver
    now: Callable[[], datetime]
    config_maps: Callable[[str, str], Mapping[str, Any] | None]
    """A ConfigMap by namespace and name."""
    secrets: Callable[[str, str], Mapping[str, Any] | None]
    """A Secret by namespace and name."""
    write_status: Callable[[Key, Object, Mapping[str, str]], None]
    """Writes a pod's status and the platform's annotations on it."""
    slot_released: Callable[[], Awaitable[None]]
    """Waits until some pod has released its GPU slots."""
    emit_event: Callable[[Key, str, str, str], None]
    """Records an Event on a pod: type, reason, message."""
    on_scheduled: Callable[[Key], None]
    on_ready: Callable[[Key, bool], None]
    drained: Callable[[Key, float], Awaitable[bool]]
    """Waits until no request is in flight at a pod, for so many seconds at most."""


class Termination:
    """Whether a pod has been asked to terminate, and how much time it has for that.

    Args:
        grace_s: seconds from the request to SIGKILL; the wait for requests in flight is part of them.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        """The seconds of the latest request."""
        self._deadline = 0.0
        self._requested = asyncio.Event()
        self._undrained = asyncio.Event()
        self._deadline_changed = asyncio.Event()

    @property
    def requested(self) -> bool:
        """Whether the pod has been asked to terminate."""
        return self._requested.is_set()

    def request(self, *, grace_s: float | None, drain: bool) -> None:
        """Ask the pod to terminate; a second request may shorten its time, and end the wait for requests."""
        now = asyncio.get_running_loop().time()
        if grace_s is not None:
            self.grace_s = grace_s
        deadline = now + self.grace_s
        self._deadline = min(self._deadline, deadline) if self.requested else deadline
        self._deadline_changed.set()
        if not drain:
            self._undrained.set()
        self._requested.set()

    @property
    def remaining_s(self) -> float:
        """Seconds until SIGKILL, once termination has been requested."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def wait_for_deadline(self) -> None:
        """Return when the time is over, however often it is shortened meanwhile."""
        while self.remaining_s > 0:
            self._deadline_changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._deadline_changed.wait(), self.remaining_s)

    async def wait_for_undrained(self) -> None:
        """Return once the requests in flight are not to be waited for."""
        await self._undrained.wait()

    async def wait(self) -> None:
        """Return once termination has been requested."""
        await self._requested.wait()

    async def wait_unless_requested(self, waiting: Awaitable[Any]) -> bool:
        """Wait for `waiting`, but no longer than until termination is requested; False if it was."""
        task = asyncio.ensure_future(waiting)
        requested = asyncio.ensure_future(self._requested.wait())
        try:
            await asyncio.wait({task, requested}, return_when=asyncio.FIRST_COMPLETED)
            return not self._requested.is_set()
        finally:
            for pending in (task, requested):
                pending.cancel()
