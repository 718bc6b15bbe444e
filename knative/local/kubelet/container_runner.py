"""The life of one container of a pod: its process, probes, restarts and last signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from knative import env_vars
from knative.client.resources import Object
from knative.labels import PORT_ANNOTATION, STARTED_AT_ANNOTATION, TLS_ANNOTATION
from knative.local import objects
from knative.local.apiserver.records import Key
from knative.local.kubelet import environment, gpus, limits, mount_namespace, probe_loop
from knative.local.kubelet.environment import ContainerConfigError, ValueSources
from knative.local.kubelet.limit_enforcer import EnforcedLimits
from knative.local.kubelet.mount_namespace import BindMount
from knative.local.kubelet.pod_runtime import PodRuntime, Termination
from knative.local.kubelet.ports import NoFreePort
from knative.local.kubelet.preimported import Start
from knative.local.kubelet.probe_loop import ContainerProbes, ProbeHandlers
from knative.local.kubelet.probes import Probe, ProbeResult
from knative.local.kubelet.process import Process, ProcessStartError
from knative.local.kubelet.status import CREATING, ContainerState, PodState, terminated

log = logging.getLogger(__name__)

_CONFIG_RETRY_S = 1.0
_MAX_BACKOFF_S = 300.0
_MAX_DOUBLINGS = 30
"""Bounds the exponent of the back-off, which would overflow a float after a thousand restarts."""
_MIN_GRACE_S = 2.0
"""Least seconds from SIGTERM to SIGKILL after a wait for requests, as in Kubernetes' kubelet."""
_BACKOFF_RESET_S = 600.0
"""A run that lasted longer makes the next restart count as the first, as in Kubernetes' kubelet."""


@dataclass(frozen=True, slots=True)
class PodContext:
    """What a pod's containers share."""

    key: Key
    obj: Object
    serving: Mapping[str, Any]
    """The specification of the container that serves requests."""
    state: PodState
    termination: Termination
    runtime: PodRuntime
    on_change: Callable[[], None]
    """Called after the state has changed."""

    @property
    def title(self) -> str:
        """The pod as Kubernetes' kubelet names it in messages."""
        return f"{self.key.name}_{self.key.namespace}({self.obj['metadata'].get('uid')})"


class ContainerRunner:
    """Runs one container until its pod is asked to terminate. Only its own task touches its process.

    Args:
        pod: what it shares with the pod's other containers.
        spec: the container, as in the pod's specification.
        state: its state, a part of the pod's.
        slots: the GPU slots that it may use.
        serves: whether it is the container that requests go to.
    """

    def __init__(
        self,
        pod: PodContext,
        spec: Mapping[str, Any],
        state: ContainerState,
        slots: tuple[int, ...],
        *,
        serves: bool,
    ) -> None:
        self._pod = pod
        self._spec = spec
        self._state = state
        self._slots = slots
        self._serves = serves
        self._serves_tls = False
        self._log = (pod.key.namespace, pod.key.name, None if serves else state.name)
        self._process: Process | None = None
        self._start: Start | None = None

    async def run(self) -> None:
        """Start the container, and restart it whenever it exits, until its pod is asked to terminate."""
        failures = 0
        loop, termination = asyncio.get_running_loop(), self._pod.termination
        while not termination.requested:
            begun = loop.time()
            started = await self._attempt_run()
            if termination.requested:
                break
            if loop.time() - begun > _BACKOFF_RESET_S:
                failures = 0
            failures += 1
            # The first restart is immediate, as in Kubernetes' kubelet.
            if not (started and failures == 1):
                await self._back_off(failures, started=started)
            self._state.restarts += started

    def kill(self) -> None:
        """Kill its process, if it still runs."""
        if self._process is not None and not self._process.exited.done():
            self._process.signal(signal.SIGKILL)

    async def _back_off(self, failures: int, *, started: bool) -> None:
        runtime, state = self._pod.runtime, self._state
        doubled: float = runtime.backoff_s * 2.0 ** min(max(0, failures - 2), _MAX_DOUBLINGS)
        delay = min(doubled, _MAX_BACKOFF_S)
        if started:
            text = f"back-off {delay:g}s restarting failed container={state.name} pod={self._pod.title}"
            state.waiting = ("CrashLoopBackOff", text)
        self._pod.on_change()
        text = f"Back-off restarting failed container {state.name} in pod {self._pod.title}"
        runtime.emit_event(self._pod.key, "Warning", "BackOff", text)
        await self._pod.termination.wait_unless_requested(asyncio.sleep(delay))

    # one run

    async def _attempt_run(self) -> bool:
        """One run; False if the container could not even start.

        An error that nothing here expects counts as such a failure, with its back-off: it must not end the
        pod's worker, which would be replaced at once and fail again.
        """
        try:
            return await self._run_once()
        except Exception as problem:
            log.exception("container %s of %s failed", self._state.name, self._pod.title)
            self._set_unstartable("CreateContainerError", f"internal error: {problem!r}")
            return False

    async def _run_once(self) -> bool:
        """One run, from start to exit; False if the container could not even start.

        A ConfigMap, Secret or key that is missing is looked for again each second: that is no failure of the
        container, so it does not count for the back-off.
        """
        runtime, termination = self._pod.runtime, self._pod.termination
        while not termination.requested:
            try:
                with contextlib.ExitStack() as held:
                    port = None
                    if self._serves:
                        port = runtime.ports.take()
                        held.callback(runtime.ports.release, port)
                    env, command = self._assemble(port)
                    mounts = self._prepare_mounts()
                    return await self._run_process(env, command, mounts, self._enforce_limits(), port)
            except NoFreePort as problem:
                self._set_unstartable("CreateContainerError", str(problem))
                return False
            except ContainerConfigError as problem:
                self._set_unstartable("CreateContainerConfigError", str(problem))
                self._pod.on_change()
                await termination.wait_unless_requested(asyncio.sleep(_CONFIG_RETRY_S))
        return False

    def _assemble(self, port: int | None) -> tuple[dict[str, str], list[str]]:
        """The container's environment and command."""
        runtime, key = self._pod.runtime, self._pod.key
        port_env = {} if port is None else {"PORT": str(port)}
        of_service = runtime.service_env(key)
        self._serves_tls = self._serves and env_vars.TLS_DIR in of_service
        base = {**runtime.base_env, **of_service, **port_env, **gpus.device_environment(self._slots)}
        env = environment.build(self._spec, base, self._sources)
        env |= {**port_env, "HOSTNAME": key.name, **runtime.identity_env}
        env.setdefault(env_vars.TERMINATION_LOG, str(runtime.logs.termination_path(*self._log)))
        return env, environment.command(self._spec, env)

    @property
    def _sources(self) -> ValueSources:
        runtime, namespace = self._pod.runtime, self._pod.key.namespace
        return ValueSources(
            lambda name: runtime.config_maps(namespace, name),
            lambda name: runtime.secrets(namespace, name),
        )

    def _prepare_mounts(self) -> list[BindMount]:
        key, listed = self._pod.key, self._pod.obj["spec"].get("volumes") or ()
        try:
            return self._pod.runtime.volumes.prepare(
                key.namespace, key.name, self._spec, listed, self._sources
            )
        except OSError as problem:  # a full disk, say
            raise ContainerConfigError(f"cannot make the volumes: {problem}") from problem

    def _enforce_limits(self) -> EnforcedLimits:
        key = self._pod.key
        name = f"{key.namespace}_{key.name}_{self._state.name}_{self._state.restarts}"
        try:
            return self._pod.runtime.limits.make(name, limits.of(self._spec))
        except OSError as problem:
            raise ContainerConfigError(f"cannot make its control group: {problem}") from problem

    def _set_unstartable(self, reason: str, message: str) -> None:
        state = self._state
        changed = state.waiting != (reason, message)
        state.waiting, state.running_since = (reason, message), None
        self._set_ready(False)
        if changed:
            self._pod.runtime.emit_event(self._pod.key, "Warning", "Failed", f"Error: {message}")

    async def _run_process(
        self,
        env: dict[str, str],
        command: list[str],
        mounts: list[BindMount],
        enforced: EnforcedLimits,
        port: int | None,
    ) -> bool:
        runtime, state = self._pod.runtime, self._state
        folder = Path(runtime.workdir, self._spec.get("workingDir") or ".")
        try:
            runtime.logs.take_termination_message(*self._log)  # of an earlier run
            offset = runtime.logs.size(*self._log)
            output = runtime.logs.open(*self._log)
        except OSError as problem:  # a full disk, say
            await runtime.limits.end(enforced)
            raise ContainerConfigError(f"cannot open its log: {problem}") from problem
        begun = runtime.now()
        start = Start(command, env, folder, mounts, enforced.folders)
        try:
            self._process = runtime.forkserver.fork(start, output) or Process.start(
                command,
                env=env,
                folder=folder,
                output=output,
                wrapper=(*enforced.wrapper, *mount_namespace.wrapper(mounts)),
            )
        except ProcessStartError as problem:
            await runtime.limits.end(enforced)
            # Kubernetes shows it as a run that ended at once with exit code 128.
            state.last = terminated(128, "StartError", str(problem), begun, begun)
            self._set_unstartable("RunContainerError", str(problem))
            return False
        finally:
            os.close(output)
        runtime.limits.begin(enforced, self._process)
        self._start = start
        self._set_running(begun, port)
        inside = mount_namespace.enter(self._process.pid, folder) if mounts else ()
        probing = asyncio.ensure_future(self._probe(env, folder, port, inside))
        try:
            exit_code = await self._wait_for_exit_or_termination(probing)
            if exit_code is None:
                await self._stop_process()
        finally:
            self.kill()  # after an unexpected error only is it still running
            await self._process.exited
            killed_for = await runtime.limits.end(enforced)
        if exit_code is None:
            return True
        if killed_for is not None:  # whatever exit code its first process made of the death of another
            exit_code = 128 + signal.SIGKILL
        self._set_exited(exit_code, killed_for, offset, begun)
        return True

    def _set_running(self, begun: datetime, port: int | None) -> None:
        state, pod = self._state, self._pod
        assert self._process is not None
        state.running_since = objects.timestamp(begun)
        state.pid = self._process.pid
        pod.state.has_run = True
        if port is not None:
            pod.state.annotations[PORT_ANNOTATION] = str(port)
            if self._serves_tls:
                pod.state.annotations[TLS_ANNOTATION] = "true"
            pod.state.annotations[STARTED_AT_ANNOTATION] = objects.micro_timestamp(begun)
        pod.on_change()

    def _set_exited(self, code: int, killed_for: str | None, offset: int, begun: datetime) -> None:
        runtime, state, pod = self._pod.runtime, self._state, self._pod
        # Knative sets terminationMessagePolicy FallbackToLogsOnError: the end of the log is the message of a
        # failure that left none.
        message = runtime.logs.take_termination_message(*self._log)
        if code and not message:
            message = runtime.logs.tail(*self._log, since=offset)
        reason = "Completed" if code == 0 else "Error"
        if killed_for is not None:
            reason = "OOMKilled"
            message = f"{killed_for}\n{message}".strip()
            runtime.emit_event(pod.key, "Warning", reason, f"Container {state.name} {killed_for}")
        state.last = terminated(code, reason, message, begun, runtime.now())
        state.running_since, state.waiting = None, CREATING
        state.started = False
        if self._serves:
            pod.state.annotations.pop(PORT_ANNOTATION, None)
        self._set_ready(False)

    async def _wait_for_exit_or_termination(self, probing: asyncio.Future[None]) -> int | None:
        """Wait until the process exits (its code) or the pod is asked to terminate (None).

        Probing may end before either; its error is raised, for an unprobed container would never be ready.
        """
        assert self._process is not None
        exited = self._process.exited
        requested = asyncio.ensure_future(self._pod.termination.wait())
        ends: set[asyncio.Future[Any]] = {exited, requested}
        try:
            await asyncio.wait({*ends, probing}, return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                probing.result()
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            requested.cancel()
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing
        return exited.result() if exited.done() else None

    async def _stop_process(self) -> None:
        """Let requests in flight end, then SIGTERM, then SIGKILL when the pod's time is over."""
        assert self._process is not None
        termination, exited = self._pod.termination, self._process.exited
        self._set_ready(False)
        drained = self._pod.runtime.drained(self._pod.key, termination.remaining_s)
        await _first(exited, drained, termination.wait_for_undrained(), termination.wait_for_deadline())
        if not exited.done():
            self._process.signal(signal.SIGTERM)
            if not termination.remaining_s:  # the requests in flight have taken all of the time
                await asyncio.wait([exited], timeout=min(_MIN_GRACE_S, termination.grace_s))
            await _first(exited, termination.wait_for_deadline())
        if not exited.done():
            self._process.signal(signal.SIGKILL)
            await exited

    # probing

    async def _probe(
        self, env: Mapping[str, str], folder: Path, port: int | None, inside: Sequence[str]
    ) -> None:
        """Probe the run until cancelled; `inside` is the command prefix of exec probes."""
        serving_port = int(self._pod.state.annotations.get(PORT_ANNOTATION) or port or 0)
        wanted = ContainerProbes.of(
            self._spec,
            self._pod.serving,
            serving_port,
            serves=self._serves,
            tls=TLS_ANNOTATION in self._pod.state.annotations,
        )

        async def attempt(probe: Probe) -> ProbeResult:
            return await self._pod.runtime.prober.attempt(probe, env, folder, inside)

        handlers = ProbeHandlers(self._on_started, self._on_readiness, self._on_failed)
        await probe_loop.run_probes(wanted, attempt, handlers)

    def _on_started(self) -> None:
        self._state.started = True

    def _on_readiness(self, ready: bool, message: str) -> None:  # noqa: FBT001  # the value is the state
        state = self._state
        if ready or state.ready:
            if not ready:
                text = f"Readiness probe failed: {message}"
                self._pod.runtime.emit_event(self._pod.key, "Warning", "Unhealthy", text)
            state.not_ready_message = message
            self._set_ready(ready)
        state.not_ready_message = message

    def _on_failed(self, kind: str, result: ProbeResult) -> None:
        """A startup or liveness probe has failed for good: kill the container, which restarts it."""
        text = f"{kind} probe failed: {result.message}"
        self._pod.runtime.emit_event(self._pod.key, "Warning", "Unhealthy", text)
        self.kill()

    def _set_ready(self, ready: bool) -> None:  # noqa: FBT001  # the value is the state
        self._state.ready = ready
        self._pod.on_change()
        if ready and self._start is not None:
            # Only now, so that its imports are in no start's way.
            self._pod.runtime.forkserver.prepare(self._start)


async def _first(exited: asyncio.Future[int], *waiting: Awaitable[Any]) -> None:
    """Wait for one of these; those that are not `exited` are cancelled afterwards."""
    tasks = [asyncio.ensure_future(item) for item in waiting]
    try:
        await asyncio.wait([exited, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
