"""The life of one pod: it waits for its GPU slots, then its containers run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from knative.client.resources import Object
from knative.labels import GPU_SLOTS_ANNOTATION, READY_AT_ANNOTATION, SCHEDULED_AT_ANNOTATION
from knative.local import conditions, containers, objects
from knative.local.apiserver.records import Key
from knative.local.kubelet import gpus, status
from knative.local.kubelet.container_runner import ContainerRunner, PodContext
from knative.local.kubelet.pod_runtime import PodRuntime, Termination
from knative.local.kubelet.status import ContainerState, PodState


class PodWorker:
    """Runs one pod until it is asked to terminate."""

    def __init__(self, key: Key, pod: Object, runtime: PodRuntime) -> None:
        self.key = key
        self._runtime = runtime
        self._spec: Mapping[str, Any] = pod["spec"]
        self._termination = Termination(float(self._spec.get("terminationGracePeriodSeconds") or 30))
        self._specs = list(self._spec["containers"])
        self._state = PodState(containers=[_initial_state(spec) for spec in self._specs])
        self._was_ready = False
        self._slots: tuple[int, ...] = ()
        self._runners: list[ContainerRunner] = []
        self._pod = PodContext(
            key=key,
            obj=pod,
            serving=containers.serving(self._spec),
            state=self._state,
            termination=self._termination,
            runtime=runtime,
            on_change=self._on_change,
        )

    def terminate(self, *, grace_s: float | None = None, drain: bool = True) -> None:
        """Begin to terminate; a second call may change the grace period."""
        self._termination.request(grace_s=grace_s, drain=drain)

    async def run(self) -> None:
        """The whole life of the pod; no process of it is left on return."""
        try:
            if await self._schedule():
                await self._run_containers()
        finally:
            for runner in self._runners:
                runner.kill()  # only after a failure in another container's task is one still running
            self._runtime.slots.release(self._holder)
            self._runtime.volumes.remove(self.key.namespace, self.key.name)

    @property
    def _holder(self) -> str:
        return f"{self.key.namespace}/{self.key.name}"

    async def _schedule(self) -> bool:
        """Take the GPU slots, waiting as long as it takes; False if asked to terminate meanwhile."""
        wanted = containers.gpus(self._spec)
        while (slots := self._runtime.slots.take(self._holder, wanted)) is None:
            if self._state.scheduled.status != "False":
                self._state.scheduled = conditions.false("PodScheduled", "Unschedulable", gpus.INSUFFICIENT)
                self.write_status()
                self._runtime.emit_event(self.key, "Warning", "FailedScheduling", gpus.INSUFFICIENT)
            if not await self._termination.wait_unless_requested(self._runtime.slot_released()):
                return False
        self._slots = slots
        self._state.scheduled = conditions.true("PodScheduled")
        self._state.annotations[SCHEDULED_AT_ANNOTATION] = objects.micro_timestamp(self._runtime.now())
        if slots:
            self._state.annotations[GPU_SLOTS_ANNOTATION] = ",".join(map(str, slots))
        self._runtime.on_scheduled(self.key)
        return not self._termination.requested

    async def _run_containers(self) -> None:
        """Run the containers until asked to terminate, each with its own part of the GPU slots."""
        assigned = 0
        for spec, state in zip(self._specs, self._state.containers, strict=True):
            count = containers.gpus_of(spec)
            slots = self._slots[assigned : assigned + count]
            self._runners.append(
                ContainerRunner(self._pod, spec, state, slots, serves=spec is self._pod.serving)
            )
            assigned += count
        async with asyncio.TaskGroup() as group:
            for runner in self._runners:
                group.create_task(runner.run())

    def _on_change(self) -> None:
        ready = self._state.ready
        if ready and not self._was_ready:
            self._state.annotations[READY_AT_ANNOTATION] = objects.micro_timestamp(self._runtime.now())
        elif not ready:
            self._state.annotations.pop(READY_AT_ANNOTATION, None)
        self.write_status()
        if ready is not self._was_ready:
            self._was_ready = ready
            self._runtime.on_ready(self.key, ready)

    def write_status(self) -> None:
        """Write the pod's status, even if nothing has changed since it was last written."""
        self._runtime.write_status(
            self.key,
            status.pod_status(self._state, self._spec, self._runtime.host),
            dict(self._state.annotations),
        )


def _initial_state(spec: Mapping[str, Any]) -> ContainerState:
    return ContainerState(str(spec.get("name") or "user-container"), str(spec.get("image") or ""))
