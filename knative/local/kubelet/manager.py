"""All replicas: follows the pods of the API and gives each a process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from knative import env_vars
from knative.client import resources
from knative.client.resources import Object
from knative.labels import PILOTLIGHT, REVISION_LABEL, SERVICE_LABEL
from knative.local import conditions, containers, objects
from knative.local.activator import Activator
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Change, EventType, Key
from knative.local.event_recorder import EventRecorder
from knative.local.kubelet import process, usage
from knative.local.kubelet.confinement import Confinements, Mechanism
from knative.local.kubelet.downward import NODE, Machine
from knative.local.kubelet.gpus import GpuMeter, Slots
from knative.local.kubelet.logs import Logs
from knative.local.kubelet.pod_runtime import Surroundings
from knative.local.kubelet.ports import Ports
from knative.local.kubelet.probes import Prober
from knative.local.kubelet.replica import Replica
from knative.local.kubelet.usage import Usage
from knative.local.kubelet.volumes import Volumes
from knative.local.routing import RevisionKey

log = logging.getLogger(__name__)

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """How replicas are run."""

    host: str
    gateway_url: str
    logs: Path
    """The folder of their output."""
    volumes: Path
    """Where folders made for a replica are."""
    claims: Path
    """Where the folders of claims are, `NAMESPACE/NAME`."""
    mark: str
    """The platform's identity, for finding its processes again."""
    workdir: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """Given to every replica, under the container's own."""
    backoff_s: float = 10.0
    stop_grace_s: float = 10.0
    """From SIGTERM to SIGKILL when the platform stops."""
    cgroups: Path | None = None
    """The file that remembers where control groups were made; None: none are made."""


class Replicas:
    """Starts, watches and ends one process for each pod.

    Args:
        registry: the pods.
        activator: tells when a replica is idle, so that it can end.
        settings: how they are run.
        slots: the GPU slots.
        meter: counts slot seconds.
        recorder: takes Events.
        now: the wall clock.
    """

    def __init__(
        self,
        registry: Registry,
        activator: Activator,
        settings: ReplicaSettings,
        *,
        slots: Slots,
        meter: GpuMeter,
        recorder: EventRecorder,
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._activator = activator
        self._settings = settings
        self._slots = slots
        self._meter = meter
        self._events = recorder
        self._now = now
        self._replicas: dict[Key, Replica] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._freed = asyncio.Condition()
        self._prober = Prober(settings.host)
        self.logs = Logs(settings.logs)
        self._volumes = Volumes(settings.volumes, settings.claims)
        self._confinements = Confinements(f"pilotlight-{settings.mark}", settings.cgroups)
        self._stopping = False
        self._around = Surroundings(
            host=settings.host,
            machine=Machine(os.cpu_count() or 1, psutil.virtual_memory().total),
            workdir=settings.workdir,
            base_env=self._base_env(),
            mark_env={process.MARK: settings.mark},
            backoff_s=settings.backoff_s,
            ports=Ports(settings.host),
            prober=self._prober,
            logs=self.logs,
            slots=slots,
            volumes=self._volumes,
            confinements=self._confinements,
            now=now,
            config_maps=lambda namespace, name: self._object(resources.CONFIG_MAP, namespace, name),
            secrets=lambda namespace, name: self._object(resources.SECRET, namespace, name),
            report=self._report,
            slot_freed=self._slot_freed,
            tell=self._tell,
            on_scheduled=self._scheduled,
            on_ready=self._ready,
            drained=self._drained,
        )

    def _base_env(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return {
            "PATH": os.defpath,
            **inherited,
            **self._settings.env,
            env_vars.HOST: self._settings.host,
            env_vars.GATEWAY: self._settings.gateway_url,
            "PYTHONUNBUFFERED": "1",
        }

    # life

    async def clear_leftovers(self) -> None:
        """End what an earlier platform of this state folder left, and forget its pods."""
        ended = await asyncio.to_thread(process.end_marked, self._settings.mark)
        if ended:
            log.warning("ended %d processes that an earlier platform left", ended)
        for record in self._store.list(resources.POD):
            self._store.remove(record.key)
        await asyncio.to_thread(self._volumes.clear)
        await self._confinements.start()

    @property
    def mechanism(self) -> Mechanism:
        """What holds the limits of containers on this machine."""
        return self._confinements.mechanism

    def start(self) -> None:
        """Follow the pods from now on."""
        self._store.subscribe(self._changed)
        self._store.on_reset(self._resynchronise)
        for record in self._store.list(resources.POD):
            self._begin(record.key, record.obj)

    async def stop(self) -> None:
        """End all replicas; returns when no process is left."""
        self._stopping = True
        for replica in self._replicas.values():
            replica.end(grace_s=self._settings.stop_grace_s, drain=False)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        await self._prober.close()
        await asyncio.to_thread(process.end_marked, self._settings.mark, 1.0)
        await self._confinements.stop()
        await asyncio.to_thread(self._volumes.clear)

    async def keep_house(self) -> None:
        """Rotate logs, and drop those of pods long gone."""
        living = {(key.namespace, key.name) for key in self._replicas}
        await asyncio.to_thread(self.logs.rotate, living)

    async def usages(self) -> dict[Key, Usage]:
        """What each running replica uses now, all its processes together."""
        running = {key: replica.roots for key, replica in self._replicas.items()}
        used = await asyncio.to_thread(usage.sample, [pid for roots in running.values() for pid in roots])
        return {
            key: sum((used[pid] for pid in roots if pid in used), Usage(0.0, 0))
            for key, roots in running.items()
            if any(pid in used for pid in roots)
        }

    # pods

    def _changed(self, change: Change) -> None:
        key, obj = change.record.key, change.record.obj
        if key.resource != resources.POD:
            return
        if change.type is EventType.ADDED:
            self._begin(key, obj)
        elif change.type is EventType.DELETED:
            if (replica := self._replicas.get(key)) is not None:
                replica.end(grace_s=0.0, drain=False)  # removed by force: nobody waits for it
        elif obj["metadata"].get("deletionTimestamp") and (replica := self._replicas.get(key)) is not None:
            grace = obj["metadata"].get("deletionGracePeriodSeconds")
            asked = obj["spec"].get("terminationGracePeriodSeconds")
            # The API's default grace means: as long as the pod itself asks for.
            replica.end(grace_s=float(asked if grace in (None, 30) and asked else grace or 0))

    def _resynchronise(self) -> None:
        """The store was taken back to what its disk holds: pods may have come back or gone."""
        for key, replica in self._replicas.items():
            if self._store.get(key) is None:
                replica.end()
            else:
                replica.report()
        for record in self._store.list(resources.POD):
            self._begin(record.key, record.obj)

    def _begin(self, key: Key, pod: Object) -> None:
        if self._stopping or key in self._replicas:
            return
        replica = self._replicas[key] = Replica(key, pod, self._around)
        task = asyncio.get_running_loop().create_task(
            replica.run(), name=f"replica {key.namespace}/{key.name}"
        )
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._finished(key, done))

    def _finished(self, key: Key, task: asyncio.Task[None]) -> None:
        del self._replicas[key], self._tasks[key]
        self._meter.end(f"{key.namespace}/{key.name}")
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("replica %s/%s failed", key.namespace, key.name, exc_info=problem)
        with contextlib.suppress(RuntimeError):  # the loop is closing
            asyncio.get_running_loop().create_task(self._announce_slot())
        self._registry.finish_deletion(key)

    # what replicas ask for

    async def _slot_freed(self) -> None:
        async with self._freed:
            await self._freed.wait()

    async def _announce_slot(self) -> None:
        async with self._freed:
            self._freed.notify_all()

    def _report(self, key: Key, status: Object, marks: Mapping[str, str]) -> None:
        record = self._store.get(key)
        if record is None:
            return
        listed = conditions.written(
            status["conditions"], conditions.before(record.obj), objects.timestamp(self._now())
        )
        status = {**status, "conditions": listed}
        meta = record.obj["metadata"]
        kept = {
            name: value
            for name, value in objects.annotations_of(record.obj).items()
            if not name.startswith(f"{PILOTLIGHT}/")
        }
        wanted = {**kept, **marks}
        if record.obj.get("status") == status and objects.annotations_of(record.obj) == wanted:
            return
        obj = {**record.obj, "metadata": {**meta, "annotations": wanted}, "status": status}
        if status["phase"] != "Pending" or "podIP" in status:
            obj["spec"] = {**record.obj["spec"], "nodeName": NODE}
        self._registry.write_status(record, obj)

    def _tell(self, key: Key, kind: str, reason: str, message: str) -> None:
        record = self._store.get(key)
        if record is not None:
            say = self._events.warning if kind == "Warning" else self._events.normal
            say(record.obj, reason, message)

    def _scheduled(self, key: Key) -> None:
        pod = self._object(resources.POD, key.namespace, key.name)
        if pod is None:
            return
        labels = objects.labels_of(pod)
        self._meter.begin(
            f"{key.namespace}/{key.name}",
            RevisionKey(key.namespace, labels.get(REVISION_LABEL, "")),
            labels.get(SERVICE_LABEL, ""),
            containers.gpus(pod["spec"]),
        )

    def _ready(self, key: Key, ready: bool) -> None:  # noqa: FBT001  # the value is the state
        self._meter.set_ready(f"{key.namespace}/{key.name}", ready=ready)

    async def _drained(self, key: Key, timeout_s: float) -> bool:
        pod = self._object(resources.POD, key.namespace, key.name)
        revision = objects.labels_of(pod).get(REVISION_LABEL, "") if pod is not None else ""
        return await self._activator.drained(
            RevisionKey(key.namespace, revision), key.name, timeout_s=timeout_s
        )

    def _object(self, resource: resources.Resource, namespace: str, name: str) -> Mapping[str, Any] | None:
        record = self._store.get(Key(resource, namespace, name))
        return None if record is None else record.obj
