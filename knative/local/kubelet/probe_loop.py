"""Probes one run of a container until it is cancelled or a probe has failed for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from knative.local.kubelet import probes
from knative.local.kubelet.probes import Probe, ProbeResult

_FAST_PROBE_S, _SLOW_PROBE_S, _FAST_FOR_S = 0.05, 0.1, 10.0
"""Until a container is ready for the first time it is probed far more often than its period says."""


@dataclass(frozen=True, slots=True)
class ContainerProbes:
    """A container's probes; None: no probe of that kind."""

    startup: Probe | None
    readiness: Probe | None
    liveness: Probe | None

    @classmethod
    def of(
        cls,
        container: Mapping[str, Any],
        serving: Mapping[str, Any],
        port: int,
        *,
        serves: bool,
        tls: bool = False,
    ) -> Self:
        """The probes of a container of a pod whose serving container listens on `port`.

        The serving container's port is probed even if it names no readiness probe, as Knative does; any other
        container without one is ready as soon as it runs.
        """
        found = [
            probes.parse(container.get(f"{kind}Probe"), serving, port, tls=tls)
            for kind in ("startup", "readiness", "liveness")
        ]
        if serves and found[1] is None:
            found[1] = Probe("tcp", port)
        return cls(*found)


@dataclass(frozen=True, slots=True)
class ProbeHandlers:
    """Callbacks for the results."""

    started: Callable[[], None]
    ready: Callable[[bool, str], None]
    """Called with each change of readiness, and with the reason of each failure while not ready."""
    failed: Callable[[str, ProbeResult], None]
    """Called once a startup or liveness probe has failed as often as its failure threshold."""


async def run_probes(
    wanted: ContainerProbes, attempt: Callable[[Probe], Awaitable[ProbeResult]], handlers: ProbeHandlers
) -> None:
    """Probe until a startup or liveness probe has failed for good, or until cancelled."""
    if wanted.startup is not None and not await _starts_up(wanted.startup, attempt, handlers):
        return
    handlers.started()
    async with asyncio.TaskGroup() as group:
        if wanted.readiness is None:
            handlers.ready(True, "")
        else:
            group.create_task(_watch_readiness(wanted.readiness, attempt, handlers))
        if wanted.liveness is not None:
            group.create_task(_watch_liveness(wanted.liveness, attempt, handlers))


async def _starts_up(
    probe: Probe, attempt: Callable[[Probe], Awaitable[ProbeResult]], handlers: ProbeHandlers
) -> bool:
    await asyncio.sleep(probe.initial_delay_s)
    failures = 0
    while not (result := await attempt(probe)).ok:
        failures += 1
        if failures >= probe.failure_threshold:
            handlers.failed("Startup", result)
            return False
        await asyncio.sleep(probe.period_s)
    return True


async def _watch_readiness(
    probe: Probe, attempt: Callable[[Probe], Awaitable[ProbeResult]], handlers: ProbeHandlers
) -> None:
    """Often until the first success, then once per period."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    successes = failures = 0
    ready = False
    await asyncio.sleep(probe.initial_delay_s)
    while True:
        result = await attempt(probe)
        successes, failures = (successes + 1, 0) if result.ok else (0, failures + 1)
        if result.ok and successes >= probe.success_threshold and not ready:
            ready = True
            handlers.ready(True, "")
        elif not result.ok:
            ready = ready and failures < probe.failure_threshold
            if not ready:
                handlers.ready(False, result.message)
        if ready:
            await asyncio.sleep(probe.period_s)
        else:
            young = loop.time() - begun < _FAST_FOR_S
            await asyncio.sleep(_FAST_PROBE_S if young else _SLOW_PROBE_S)


async def _watch_liveness(
    probe: Probe, attempt: Callable[[Probe], Awaitable[ProbeResult]], handlers: ProbeHandlers
) -> None:
    failures = 0
    await asyncio.sleep(probe.initial_delay_s)
    while True:
        result = await attempt(probe)
        failures = 0 if result.ok else failures + 1
        if failures >= probe.failure_threshold:
            handlers.failed("Liveness", result)
            return
        await asyncio.sleep(probe.period_s)
