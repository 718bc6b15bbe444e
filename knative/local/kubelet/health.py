"""Watches one run of a container: has it started, is it ready, is it alive?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from knative.local.kubelet import probes
from knative.local.kubelet.probes import Outcome, Probe

_FAST_PROBE_S, _SLOW_PROBE_S, _FAST_FOR_S = 0.05, 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Probes:
    """A container's probes; None: it has none of that kind."""

    startup: Probe | None
    readiness: Probe | None
    liveness: Probe | None

    @classmethod
    def of(cls, container: Mapping[str, Any], serving: Mapping[str, Any], port: int, *, serves: bool) -> Self:
        """The probes of a container of a pod whose serving container listens on `port`.

        The serving container is always asked whether its port is open; another one that names no probe is
        ready when it runs.
        """
        found = [
            probes.parse(container.get(f"{kind}Probe"), serving, port)
            for kind in ("startup", "readiness", "liveness")
        ]
        if serves and found[1] is None:
            found[1] = Probe("tcp", port)
        return cls(*found)


@dataclass(frozen=True, slots=True)
class Findings:
    """Whom to tell what is found."""

    started: Callable[[], None]
    ready: Callable[[bool, str], None]
    """A change, or why it isn't ready yet; the second tells why not."""
    lost: Callable[[str, Outcome], None]
    """A probe has the last word: which one."""


async def watch(wanted: Probes, attempt: Callable[[Probe], Awaitable[Outcome]], tell: Findings) -> None:
    """Probe until a probe has the last word, or until cancelled."""
    if wanted.startup is not None and not await _starts_up(wanted.startup, attempt, tell):
        return
    tell.started()
    async with asyncio.TaskGroup() as group:
        if wanted.readiness is None:
            tell.ready(True, "")
        else:
            group.create_task(_watch_readiness(wanted.readiness, attempt, tell))
        if wanted.liveness is not None:
            group.create_task(_watch_liveness(wanted.liveness, attempt, tell))


async def _starts_up(probe: Probe, attempt: Callable[[Probe], Awaitable[Outcome]], tell: Findings) -> bool:
    await asyncio.sleep(probe.initial_delay_s)
    failures = 0
    while not (outcome := await attempt(probe)).ok:
        failures += 1
        if failures >= probe.failure_threshold:
            tell.lost("Startup", outcome)
            return False
        await asyncio.sleep(probe.period_s)
    return True


async def _watch_readiness(
    probe: Probe, attempt: Callable[[Probe], Awaitable[Outcome]], tell: Findings
) -> None:
    """Often until the first success, then once each period."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    successes = failures = 0
    ready = False
    await asyncio.sleep(probe.initial_delay_s)
    while True:
        outcome = await attempt(probe)
        successes, failures = (successes + 1, 0) if outcome.ok else (0, failures + 1)
        if outcome.ok and successes >= probe.success_threshold and not ready:
            ready = True
            tell.ready(True, "")
        elif not outcome.ok:
            ready = ready and failures < probe.failure_threshold
            if not ready:
                tell.ready(False, outcome.message)
        if ready:
            await asyncio.sleep(probe.period_s)
        else:
            young = loop.time() - begun < _FAST_FOR_S
            await asyncio.sleep(_FAST_PROBE_S if young else _SLOW_PROBE_S)


async def _watch_liveness(
    probe: Probe, attempt: Callable[[Probe], Awaitable[Outcome]], tell: Findings
) -> None:
    failures = 0
    await asyncio.sleep(probe.initial_delay_s)
    while True:
        outcome = await attempt(probe)
        failures = 0 if outcome.ok else failures + 1
        if failures >= probe.failure_threshold:
            tell.lost("Liveness", outcome)
            return
        await asyncio.sleep(probe.period_s)
