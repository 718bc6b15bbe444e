"""The life of one container of a pod: a process, its probes, its restarts, its last signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any

from knative.client.resources import Object
from knative.labels import PORT_ANNOTATION, STARTED_AT_ANNOTATION
from knative.local import objects
from knative.local.apiserver.store import Key
from knative.local.kubelet import downward, environment, health, limits, volumes
from knative.local.kubelet import gpus as gpu_slots
from knative.local.kubelet.confinement import Confinement
from knative.local.kubelet.environment import ConfigError, Sources
from knative.local.kubelet.health import Findings, Probes
from knative.local.kubelet.pod_runtime import Ending, Surroundings
from knative.local.kubelet.ports import NoPort
from knative.local.kubelet.probes import Outcome, Probe
from knative.local.kubelet.process import Process, StartError
from knative.local.kubelet.status import ContainerState, PodState, terminated
from knative.local.kubelet.volumes import Mount

_CONFIG_RETRY_S = 1.0
_MOST_BACKOFF_S = 300.0
_MOST_DOUBLINGS = 30
"""More would only overflow."""
_BACKOFF_FORGOTTEN_S = 600.0


class Role(Enum):
    """What a container is for."""

    SERVING = auto()
    SIDECAR = auto()
    INITIAL = auto()
    """Has to succeed before the others start."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What a pod's containers share."""

    key: Key
    obj: Object
    serving: Mapping[str, Any]
    """The spec of the container that serves requests."""
    state: PodState
    ending: Ending
    around: Surroundings
    changed: Callable[[], None]
    """Something in the state is different: tell the world."""

    @property
    def title(self) -> str:
        """The pod as the kubelet's messages name it."""
        return f"{self.key.name}_{self.key.namespace}({self.obj['metadata'].get('uid')})"


class Container:
    """Runs one container until its pod is told to end. One task; nothing else touches its process.

    Args:
        pod: what it shares with the pod's other containers.
        spec: the container, as in the pod's specification.
        state: what it is doing; a part of the pod's.
        role: what it is for.
        slots: the GPU slots that are its own.
    """

    def __init__(
        self, pod: Pod, spec: Mapping[str, Any], state: ContainerState, role: Role, slots: tuple[int, ...]
    ) -> None:
        self._pod = pod
        self._spec = spec
        self._state = state
        self._role = role
        self._slots = slots
        # The pod's own file is the serving container's.
        self._log = (pod.key.namespace, pod.key.name, None if role is Role.SERVING else state.name)
        self.process: Process | None = None

    async def run(self) -> bool:
        """Start, watch, restart, until told to end; an init container until it succeeds, which is True."""
        failures = 0
        loop, ending = asyncio.get_running_loop(), self._pod.ending
        while not ending.ordered:
            begun = loop.time()
            exit_code = await self._run_once()
            if ending.ordered:
                break
            if self._role is Role.INITIAL and exit_code == 0:
                return True
            started = exit_code is not None
            if loop.time() - begun > _BACKOFF_FORGOTTEN_S:
                failures = 0
            failures += 1
            # The first restart is immediate, as the kubelet's is.
            if not (started and failures == 1):
                await self._back_off(failures, started=started)
            self._state.restarts += started
        return False

    def kill(self) -> None:
        """End its process at once, if it still runs."""
        if self.process is not None and not self.process.exited.done():
            self.process.signal(signal.SIGKILL)

    async def _back_off(self, failures: int, *, started: bool) -> None:
        around, state = self._pod.around, self._state
        doubled: float = around.backoff_s * 2.0 ** min(max(0, failures - 2), _MOST_DOUBLINGS)
        delay = min(doubled, _MOST_BACKOFF_S)
        if started:
            state.ended = None
            text = f"back-off {delay:g}s restarting failed container={state.name} pod={self._pod.title}"
            state.waiting = ("CrashLoopBackOff", text)
        self._pod.changed()
        text = f"Back-off restarting failed container {state.name} in pod {self._pod.title}"
        around.tell(self._pod.key, "Warning", "BackOff", text)
        await self._pod.ending.unless_ordered(asyncio.sleep(delay))

    # one run

    async def _run_once(self) -> int | None:
        """One run, from start to exit; its exit code, None if it could not even start.

        What its configuration names is waited for: that is no failure of the container, so no back-off.
        """
        around, ending = self._pod.around, self._pod.ending
        while not ending.ordered:
            try:
                with contextlib.ExitStack() as held:
                    port = None
                    if self._role is Role.SERVING:
                        port = around.ports.take()
                        held.callback(around.ports.release, port)
                    env, words = self._assemble(port)
                    mounts = self._mounts()
                    return await self._run_process(env, words, mounts, self._confine(), port)
            except NoPort as problem:
                self._cannot_start("CreateContainerError", str(problem))
                return None
            except ConfigError as problem:
                self._cannot_start("CreateContainerConfigError", str(problem))
                self._pod.changed()
                await ending.unless_ordered(asyncio.sleep(_CONFIG_RETRY_S))
        return None

    def _assemble(self, port: int | None) -> tuple[dict[str, str], list[str]]:
        around, key = self._pod.around, self._pod.key
        serves = {} if port is None else {"PORT": str(port)}
        base = {**around.base_env, **serves, **gpu_slots.device_environment(self._slots)}
        env = environment.build(self._spec, base, self._sources)
        env |= {**serves, "HOSTNAME": key.name, **around.mark_env}
        return env, environment.command(self._spec, env)

    @property
    def _sources(self) -> Sources:
        around, namespace = self._pod.around, self._pod.key.namespace
        return Sources(
            lambda name: around.config_maps(namespace, name),
            lambda name: around.secrets(namespace, name),
            downward.Source(self._pod.obj, self._spec, around.host, around.machine),
        )

    def _mounts(self) -> list[Mount]:
        key, listed = self._pod.key, self._pod.obj["spec"].get("volumes") or ()
        try:
            return self._pod.around.volumes.prepare(
                key.namespace, key.name, self._spec, listed, self._sources
            )
        except OSError as problem:  # a full disk, say
            raise ConfigError(f"cannot make the volumes: {problem}") from problem

    def _confine(self) -> Confinement:
        key = self._pod.key
        name = f"{key.namespace}_{key.name}_{self._state.name}_{self._state.restarts}"
        try:
            return self._pod.around.confinements.make(name, limits.of(self._spec))
        except OSError as problem:
            raise ConfigError(f"cannot make its control group: {problem}") from problem

    def _cannot_start(self, reason: str, message: str) -> None:
        state = self._state
        changed = state.waiting != (reason, message)
        state.waiting, state.running_since, state.ended = (reason, message), None, None
        self._set_ready(False)
        if changed:
            self._pod.around.tell(self._pod.key, "Warning", "Failed", f"Error: {message}")

    async def _run_process(
        self,
        env: dict[str, str],
        words: list[str],
        mounts: list[Mount],
        confinement: Confinement,
        port: int | None,
    ) -> int | None:
        around, state = self._pod.around, self._state
        folder = Path(around.workdir, self._spec.get("workingDir") or ".")
        try:
            offset = around.logs.size(*self._log)
            output = around.logs.open(*self._log)
        except OSError as problem:  # a full disk, say
            await around.confinements.end(confinement)
            raise ConfigError(f"cannot open its log: {problem}") from problem
        begun = around.now()
        try:
            self.process = Process.start(
                words,
                env=env,
                folder=folder,
                output=output,
                before=(*confinement.before, *volumes.prefix(mounts)),
            )
        except StartError as problem:
            await around.confinements.end(confinement)
            # Kubernetes shows it as a container that ended with 128 at once.
            state.last = terminated(128, "StartError", str(problem), begun, begun)
            self._cannot_start("RunContainerError", str(problem))
            return None
        finally:
            os.close(output)
        around.confinements.begin(confinement, self.process)
        self._note_start(begun, port)
        inside = volumes.entered(self.process.pid, folder) if mounts else ()
        watching = asyncio.ensure_future(self._watch(env, folder, port, inside))
        exit_code = await self._until_exit_or_end(watching)
        if exit_code is None:
            await self._end_process()
            await around.confinements.end(confinement)
            return 0
        killed_for = await around.confinements.end(confinement)
        if killed_for is not None:  # whatever its first process made of that
            exit_code = 128 + signal.SIGKILL
        self._note_exit(exit_code, killed_for, offset, begun)
        return exit_code

    def _note_start(self, begun: datetime, port: int | None) -> None:
        state, pod = self._state, self._pod
        assert self.process is not None
        state.running_since, state.ended = objects.timestamp(begun), None
        state.pid = self.process.pid
        if self._role is not Role.INITIAL:
            pod.state.has_run = True
        if port is not None:
            pod.state.marks[PORT_ANNOTATION] = str(port)
            pod.state.marks[STARTED_AT_ANNOTATION] = objects.micro_timestamp(begun)
        pod.changed()

    def _note_exit(self, code: int, killed_for: str | None, offset: int, begun: datetime) -> None:
        around, state, pod = self._pod.around, self._state, self._pod
        # As Knative has Kubernetes do it: the log's end stands in for the message of a failure only.
        message = around.logs.tail(*self._log, since=offset) if code else ""
        reason = "Completed" if code == 0 else "Error"
        if killed_for is not None:
            reason = "OOMKilled"
            message = f"{killed_for}\n{message}".strip()
            around.tell(pod.key, "Warning", reason, f"Container {state.name} {killed_for}")
        run = terminated(code, reason, message, begun, around.now())
        state.running_since, state.waiting = None, ("ContainerCreating", "")
        state.started = False
        if self._role is Role.INITIAL:
            state.ended = run
        if not (self._role is Role.INITIAL and code == 0):
            state.last = run
        if self._role is Role.SERVING:
            pod.state.marks.pop(PORT_ANNOTATION, None)
        self._set_ready(self._role is Role.INITIAL and code == 0)

    async def _until_exit_or_end(self, watching: asyncio.Future[None]) -> int | None:
        """Wait for the process to exit (its code) or for the order to end (None)."""
        assert self.process is not None
        exited = self.process.exited
        ending = asyncio.ensure_future(self._pod.ending.wait())
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
        ending, loop = self._pod.ending, asyncio.get_running_loop()
        deadline = loop.time() + ending.grace_s
        self._set_ready(False)
        if ending.drain:
            drained = asyncio.ensure_future(self._pod.around.drained(self._pod.key, ending.grace_s))
            waited: set[asyncio.Future[Any]] = {drained, self.process.exited}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        await self.process.stop(min(ending.grace_s, max(0.5, deadline - loop.time())))

    # probing

    async def _watch(
        self, env: Mapping[str, str], folder: Path, port: int | None, inside: Sequence[str]
    ) -> None:
        """Probe the run until it is cancelled; a command is run with `inside` before its words."""
        if self._role is Role.INITIAL:
            return
        serving = int(self._pod.state.marks.get(PORT_ANNOTATION) or port or 0)
        wanted = Probes.of(self._spec, self._pod.serving, serving, serves=self._role is Role.SERVING)

        async def attempt(probe: Probe) -> Outcome:
            return await self._pod.around.prober.attempt(probe, env, folder, inside)

        await health.watch(wanted, attempt, Findings(self._has_started, self._found_ready, self._give_up))

    def _has_started(self) -> None:
        self._state.started = True

    def _found_ready(self, ready: bool, message: str) -> None:  # noqa: FBT001  # the value is the state
        state = self._state
        if ready or state.ready:
            if not ready:
                self._pod.around.tell(
                    self._pod.key, "Warning", "Unhealthy", f"Readiness probe failed: {message}"
                )
            state.not_ready_message = message
            self._set_ready(ready)
        state.not_ready_message = message

    def _give_up(self, which: str, outcome: Outcome) -> None:
        """A probe has the last word: the container is killed and starts again."""
        self._pod.around.tell(
            self._pod.key, "Warning", "Unhealthy", f"{which} probe failed: {outcome.message}"
        )
        self.kill()

    def _set_ready(self, ready: bool) -> None:  # noqa: FBT001  # the value is the state
        self._state.ready = ready
        self._pod.changed()
