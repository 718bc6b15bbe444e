"""The life of one pod: a GPU slot, a process, probes, restarts, a last signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from knative.cluster import Object
from knative.local import gpus as gpu_slots
from knative.local import objects
from knative.local.reconciler import conditions, names
from knative.local.reconciler.conditions import Condition
from knative.local.replicas import environment, probes, volumes
from knative.local.replicas.logs import Logs
from knative.local.replicas.ports import NoPort, Ports
from knative.local.replicas.probes import Outcome, Probe, Prober
from knative.local.replicas.process import Process, StartError
from knative.local.replicas.volumes import Mount, Volumes
from knative.local.store import Key

log = logging.getLogger(__name__)

_FAST_PROBE_S, _SLOW_PROBE_S, _FAST_FOR_S = 0.05, 0.1, 10.0
_CONFIG_RETRY_S = 1.0
_MOST_BACKOFF_S = 300.0
_BACKOFF_FORGOTTEN_S = 600.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a replica needs of the platform."""

    host: str
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


@dataclass(slots=True)
class _State:
    """What the pod's status is made from."""

    phase: str = "Pending"
    scheduled: Condition = field(default_factory=lambda: conditions.unknown("PodScheduled"))
    ready: bool = False
    not_ready_reason: str = "ContainersNotReady"
    not_ready_message: str = ""
    started: bool = False
    waiting: tuple[str, str] | None = ("ContainerCreating", "")
    running_since: str | None = None
    last: Object | None = None
    restarts: int = 0
    marks: dict[str, str] = field(default_factory=dict)


class Replica:
    """Runs one pod until it is told to end. One task; nothing else touches its process."""

    def __init__(self, key: Key, pod: Object, around: Surroundings) -> None:
        self.key = key
        self._pod = pod
        self._container: Mapping[str, Any] = pod["spec"]["containers"][0]
        self._around = around
        self._state = _State()
        self._ending = asyncio.Event()
        self._grace_s = float(pod["spec"].get("terminationGracePeriodSeconds") or 30)
        self._drain = True
        self.process: Process | None = None

    def end(self, *, grace_s: float | None = None, drain: bool = True) -> None:
        """Begin to end; a second call may shorten the grace."""
        if grace_s is not None:
            self._grace_s = grace_s
        self._drain = self._drain and drain
        self._ending.set()

    async def run(self) -> None:
        """The whole life; returns when nothing of the replica is left."""
        try:
            if await self._schedule():
                await self._live()
        finally:
            self._around.slots.release(self._holder)
            self._around.volumes.remove(self.key.namespace, self.key.name)

    @property
    def _holder(self) -> str:
        return f"{self.key.namespace}/{self.key.name}"

    # scheduling

    async def _schedule(self) -> bool:
        """Get the GPU slots, waiting as long as it takes; False if told to end meanwhile."""
        wanted = objects.gpus(self._pod["spec"])
        while (slots := self._around.slots.take(self._holder, wanted)) is None:
            message = gpu_slots.insufficient()
            if self._state.scheduled.status != "False":
                self._state.scheduled = conditions.false("PodScheduled", "Unschedulable", message)
                self.report()
                self._around.tell(self.key, "Warning", "FailedScheduling", message)
            if not await self._unless_ending(self._around.slot_freed()):
                return False
        self._slots = slots
        self._state.scheduled = conditions.true("PodScheduled")
        self._state.marks[names.SCHEDULED_AT] = objects.micro_timestamp(self._around.now())
        if slots:
            self._state.marks[names.GPU_SLOTS] = ",".join(map(str, slots))
        self._around.on_scheduled(self.key)
        return not self._ending.is_set()

    # running

    async def _live(self) -> None:
        """Start, watch, restart, until told to end."""
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            begun = loop.time()
            started = await self._run_once()
            if self._ending.is_set():
                return
            if loop.time() - begun > _BACKOFF_FORGOTTEN_S:
                failures = 0
            failures += 1
            # The first restart is immediate, as the kubelet's is.
            delay = 0.0 if failures == 1 and started else self._backoff(failures)
            if delay:
                self._state.waiting = (
                    self._state.waiting
                    if not started
                    else ("CrashLoopBackOff", f"back-off {delay:g}s restarting failed container")
                )
                self.report()
                self._around.tell(self.key, "Warning", "BackOff", "Back-off restarting failed container")
                await self._unless_ending(asyncio.sleep(delay))
            self._state.restarts += started

    def _backoff(self, failures: int) -> float:
        doubled: float = self._around.backoff_s * 2.0 ** max(0, failures - 2)
        return min(doubled, _MOST_BACKOFF_S)

    async def _run_once(self) -> bool:
        """One run of the container, from start to exit; False if it could not even start."""
        try:
            port = self._around.ports.take()
        except NoPort as problem:
            self._cannot_start("CreateContainerError", str(problem))
            return False
        try:
            try:
                env, words = self._assemble(port)
                mounts = self._mounts()
            except environment.ConfigError as problem:
                self._cannot_start("CreateContainerConfigError", str(problem))
                await self._unless_ending(asyncio.sleep(_CONFIG_RETRY_S))
                return False
            return await self._run_process(env, words, mounts, port)
        finally:
            self._around.ports.release(port)

    def _assemble(self, port: int) -> tuple[dict[str, str], list[str]]:
        around, namespace = self._around, self.key.namespace
        base = {**around.base_env, "PORT": str(port), **gpu_slots.device_environment(self._slots)}
        env = environment.build(
            self._container,
            base,
            lambda name: around.config_maps(namespace, name),
            lambda name: around.secrets(namespace, name),
        )
        env |= {"PORT": str(port), "HOSTNAME": self.key.name, **around.mark_env}
        return env, environment.command(self._container, env)

    def _mounts(self) -> list[Mount]:
        around, namespace = self._around, self.key.namespace
        try:
            return around.volumes.prepare(
                namespace,
                self.key.name,
                self._pod["spec"],
                lambda name: around.config_maps(namespace, name),
                lambda name: around.secrets(namespace, name),
            )
        except OSError as problem:  # a full disk, say
            raise environment.ConfigError(f"cannot make the volumes: {problem}") from problem

    def _cannot_start(self, reason: str, message: str) -> None:
        changed = self._state.waiting != (reason, message)
        self._state.waiting = (reason, message)
        self._state.running_since = None
        self._set_ready(False)
        if changed:
            self._around.tell(self.key, "Warning", "Failed", f"Error: {message}")

    async def _run_process(
        self, env: dict[str, str], words: list[str], mounts: list[Mount], port: int
    ) -> bool:
        around = self._around
        folder = Path(around.workdir, self._container.get("workingDir") or ".")
        offset = around.logs.size(self.key.namespace, self.key.name)
        output = around.logs.open(self.key.namespace, self.key.name)
        begun = around.now()
        try:
            self.process = Process.start(
                words, env=env, folder=folder, output=output, before=volumes.prefix(mounts)
            )
        except StartError as problem:
            # Kubernetes shows it as a container that ended with 128 at once.
            self._state.last = _terminated(128, "StartError", str(problem), begun, begun)
            self._cannot_start("RunContainerError", str(problem))
            return False
        finally:
            os.close(output)
        state = self._state
        state.phase, state.waiting = "Running", None
        state.running_since = objects.timestamp(begun)
        state.marks[names.PORT] = str(port)
        state.marks[names.STARTED_AT] = objects.micro_timestamp(begun)
        self.report()
        watching = asyncio.ensure_future(self._watch(env, folder, port))
        exit_code = await self._until_exit_or_end(watching)
        if exit_code is None:
            await self._end_process()
            return True
        message = around.logs.tail(self.key.namespace, self.key.name, offset)
        reason = "Completed" if exit_code == 0 else "Error"
        state.last = _terminated(exit_code, reason, message, begun, around.now())
        state.running_since, state.waiting = None, ("ContainerCreating", "")
        state.started = False
        state.marks.pop(names.PORT, None)
        self._set_ready(False)
        return True

    async def _until_exit_or_end(self, watching: asyncio.Future[None]) -> int | None:
        """Wait for the process to exit (its code) or for the order to end (None)."""
        assert self.process is not None
        exited = self.process.exited
        ending = asyncio.ensure_future(self._ending.wait())
        waited: set[asyncio.Future[Any]] = {exited, ending}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        return exited.result() if exited.done() else None

    async def _end_process(self) -> None:
        """Let requests in flight end, then SIGTERM, then SIGKILL, all within the grace period."""
        assert self.process is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace_s
        self._set_ready(False)
        if self._drain:
            drained = asyncio.ensure_future(self._around.drained(self.key, self._grace_s))
            waited: set[asyncio.Future[Any]] = {drained, self.process.exited}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        await self.process.stop(min(self._grace_s, max(0.5, deadline - loop.time())))

    # probing

    async def _watch(self, env: Mapping[str, str], folder: Path, port: int) -> None:
        """Probe for as long as the process runs."""
        container = self._container
        startup = probes.parse(container.get("startupProbe"), container, port)
        readiness = probes.parse(container.get("readinessProbe"), container, port)
        liveness = probes.parse(container.get("livenessProbe"), container, port)
        if startup is not None and not await self._starts_up(startup, env, folder):
            return
        self._state.started = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_readiness(readiness or Probe("tcp", port), env, folder))
            if liveness is not None:
                group.create_task(self._watch_liveness(liveness, env, folder))

    async def _starts_up(self, probe: Probe, env: Mapping[str, str], folder: Path) -> bool:
        await asyncio.sleep(probe.initial_delay_s)
        failures = 0
        while not (outcome := await self._around.prober.attempt(probe, env, folder)).ok:
            failures += 1
            if failures >= probe.failure_threshold:
                self._give_up("Startup", outcome)
                return False
            await asyncio.sleep(probe.period_s)
        return True

    async def _watch_readiness(self, probe: Probe, env: Mapping[str, str], folder: Path) -> None:
        """Often until the first success, then once each period."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        successes = failures = 0
        await asyncio.sleep(probe.initial_delay_s)
        while True:
            outcome = await self._around.prober.attempt(probe, env, folder)
            successes, failures = (successes + 1, 0) if outcome.ok else (0, failures + 1)
            if outcome.ok and successes >= probe.success_threshold and not self._state.ready:
                self._state.marks[names.READY_AT] = objects.micro_timestamp(self._around.now())
                self._set_ready(True)
            elif not outcome.ok:
                self._state.not_ready_message = outcome.message
                if self._state.ready and failures >= probe.failure_threshold:
                    self._around.tell(
                        self.key, "Warning", "Unhealthy", f"Readiness probe failed: {outcome.message}"
                    )
                    self._set_ready(False)
            if self._state.ready:
                await asyncio.sleep(probe.period_s)
            else:
                young = loop.time() - begun < _FAST_FOR_S
                await asyncio.sleep(_FAST_PROBE_S if young else _SLOW_PROBE_S)

    async def _watch_liveness(self, probe: Probe, env: Mapping[str, str], folder: Path) -> None:
        failures = 0
        await asyncio.sleep(probe.initial_delay_s)
        while True:
            outcome = await self._around.prober.attempt(probe, env, folder)
            failures = 0 if outcome.ok else failures + 1
            if failures >= probe.failure_threshold:
                self._give_up("Liveness", outcome)
                return
            await asyncio.sleep(probe.period_s)

    def _give_up(self, which: str, outcome: Outcome) -> None:
        """A probe has the last word: the container is killed and starts again."""
        self._around.tell(self.key, "Warning", "Unhealthy", f"{which} probe failed: {outcome.message}")
        if self.process is not None:
            self.process.signal(signal.SIGKILL)

    # reporting

    def _set_ready(self, ready: bool) -> None:  # noqa: FBT001  # the value is the state
        was, self._state.ready = self._state.ready, ready
        if not ready:
            self._state.marks.pop(names.READY_AT, None)
        self.report()
        if was is not ready:
            self._around.on_ready(self.key, ready)

    def report(self) -> None:
        """Write the pod's status again; for when what was written has been lost."""
        self._around.report(self.key, self._status(), dict(self._state.marks))

    def _status(self) -> Object:
        state = self._state
        name = str(self._container.get("name") or "user-container")
        if state.ready:
            readiness = [conditions.true("Ready"), conditions.true("ContainersReady")]
        else:
            message = f"containers with unready status: [{name}]"
            if state.not_ready_message:
                message += f": {state.not_ready_message}"
            readiness = [
                conditions.false(kind, state.not_ready_reason, message)
                for kind in ("Ready", "ContainersReady")
            ]
        now: Object
        if state.running_since is not None:
            now = {"running": {"startedAt": state.running_since}}
        else:
            reason, message = state.waiting or ("ContainerCreating", "")
            now = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        status: Object = {
            "phase": state.phase,
            "conditions": [
                *readiness,
                state.scheduled,
                *([conditions.true("Initialized")] if state.scheduled.status == "True" else []),
            ],
            "containerStatuses": [
                {
                    "name": name,
                    "image": self._container.get("image", ""),
                    "imageID": "",
                    "ready": state.ready,
                    "started": state.started,
                    "restartCount": state.restarts,
                    "state": now,
                    "lastState": {"terminated": state.last} if state.last else {},
                }
            ],
            "qosClass": "BestEffort",
        }
        if state.scheduled.status == "True":
            status["hostIP"] = status["podIP"] = self._around.host
            status["startTime"] = state.marks[names.SCHEDULED_AT][:19] + "Z"
        return status

    async def _unless_ending(self, waiting: Awaitable[Any]) -> bool:
        """Wait, but no longer than until told to end; True if it was waited out."""
        task = asyncio.ensure_future(waiting)
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            return not self._ending.is_set()
        finally:
            for pending in (task, ending):
                pending.cancel()


def _terminated(code: int, reason: str, message: str, begun: datetime, ended: datetime) -> Object:
    return {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": objects.timestamp(begun),
        "finishedAt": objects.timestamp(ended),
    }
