"""The life of one pod: GPU slots, its init containers one after another, then its containers side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from knative.client.resources import Object
from knative.labels import GPU_SLOTS_ANNOTATION, READY_AT_ANNOTATION, SCHEDULED_AT_ANNOTATION
from knative.local import conditions, containers, objects
from knative.local.apiserver.store import Key
from knative.local.kubelet import gpus as gpu_slots
from knative.local.kubelet import status
from knative.local.kubelet.container import Container, Pod, Role
from knative.local.kubelet.pod_runtime import Ending, Surroundings
from knative.local.kubelet.status import ContainerState, PodState


class Replica:
    """Runs one pod until it is told to end."""

    def __init__(self, key: Key, pod: Object, around: Surroundings) -> None:
        self.key = key
        self._around = around
        self._spec: Mapping[str, Any] = pod["spec"]
        self._ending = Ending(float(self._spec.get("terminationGracePeriodSeconds") or 30))
        self._initial = list(self._spec.get("initContainers") or ())
        self._specs = list(self._spec["containers"])
        waiting = status.INITIALIZING if self._initial else status.CREATING
        self._state = PodState(
            containers=[_state(spec, waiting) for spec in self._specs],
            initial=[_state(spec, status.INITIALIZING) for spec in self._initial],
            initialized=not self._initial,
        )
        self._was_ready = False
        self._slots: tuple[int, ...] = ()
        self._containers: list[Container] = []
        self._pod = Pod(
            key=key,
            obj=pod,
            serving=containers.serving(self._spec),
            state=self._state,
            ending=self._ending,
            around=around,
            changed=self._changed,
        )

    def end(self, *, grace_s: float | None = None, drain: bool = True) -> None:
        """Begin to end; a second call may shorten the grace."""
        self._ending.order(grace_s=grace_s, drain=drain)

    @property
    def roots(self) -> tuple[int, ...]:
        """The first process of each container that runs."""
        processes = [container.process for container in self._containers]
        return tuple(item.pid for item in processes if item is not None and not item.exited.done())

    async def run(self) -> None:
        """The whole life; returns when nothing of the replica is left."""
        try:
            if await self._schedule() and await self._initialize():
                await self._live()
        finally:
            for container in self._containers:
                container.kill()  # nothing is left to, unless another's failure cut it short
            self._around.slots.release(self._holder)
            self._around.volumes.remove(self.key.namespace, self.key.name)

    @property
    def _holder(self) -> str:
        return f"{self.key.namespace}/{self.key.name}"

    async def _schedule(self) -> bool:
        """Get the GPU slots, waiting as long as it takes; False if told to end meanwhile."""
        wanted = containers.gpus(self._spec)
        while (slots := self._around.slots.take(self._holder, wanted)) is None:
            message = gpu_slots.insufficient()
            if self._state.scheduled.status != "False":
                self._state.scheduled = conditions.false("PodScheduled", "Unschedulable", message)
                self.report()
                self._around.tell(self.key, "Warning", "FailedScheduling", message)
            if not await self._ending.unless_ordered(self._around.slot_freed()):
                return False
        self._slots = slots
        self._state.scheduled = conditions.true("PodScheduled")
        self._state.marks[SCHEDULED_AT_ANNOTATION] = objects.micro_timestamp(self._around.now())
        if slots:
            self._state.marks[GPU_SLOTS_ANNOTATION] = ",".join(map(str, slots))
        self._around.on_scheduled(self.key)
        return not self._ending.ordered

    async def _initialize(self) -> bool:
        """Run the init containers, each until it succeeds; False if told to end meanwhile."""
        for spec, state in zip(self._initial, self._state.initial, strict=True):
            container = Container(
                self._pod, spec, state, Role.INITIAL, self._slots[: containers.gpus_of(spec)]
            )
            self._containers = [container]
            if not await container.run():
                return False
        if self._initial:
            self._state.initialized = True
            for state in self._state.containers:
                state.waiting = status.CREATING
            self.report()
        return True

    async def _live(self) -> None:
        """Run the containers until told to end."""
        given = 0
        self._containers = []
        for spec, state in zip(self._specs, self._state.containers, strict=True):
            count = containers.gpus_of(spec)
            role = Role.SERVING if spec is self._pod.serving else Role.SIDECAR
            slots = self._slots[given : given + count]
            self._containers.append(Container(self._pod, spec, state, role, slots))
            given += count
        async with asyncio.TaskGroup() as group:
            for container in self._containers:
                group.create_task(container.run())

    # reporting

    def _changed(self) -> None:
        ready = self._state.ready
        if ready and not self._was_ready:
            self._state.marks[READY_AT_ANNOTATION] = objects.micro_timestamp(self._around.now())
        elif not ready:
            self._state.marks.pop(READY_AT_ANNOTATION, None)
        self.report()
        if ready is not self._was_ready:
            self._was_ready = ready
            self._around.on_ready(self.key, ready)

    def report(self) -> None:
        """Write the pod's status again; for when what was written has been lost."""
        self._around.report(
            self.key, status.of(self._state, self._spec, self._around.host), dict(self._state.marks)
        )


def _state(spec: Mapping[str, Any], waiting: tuple[str, str]) -> ContainerState:
    return ContainerState(str(spec.get("name") or "user-container"), str(spec.get("image") or ""), waiting)
