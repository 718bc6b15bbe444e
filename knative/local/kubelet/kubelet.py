"""Follows the API's pods and runs a worker for each."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from knative import env_vars
from knative.client import resources
from knative.client.resources import Object
from knative.labels import PILOTLIGHT, PORT_ANNOTATION, REVISION_LABEL, SERVICE_LABEL
from knative.local import conditions, containers, objects
from knative.local.apiserver.records import Change, EventType, Key
from knative.local.apiserver.registry import Registry
from knative.local.event_recorder import EventRecorder
from knative.local.kubelet import process
from knative.local.kubelet.environment import ContainerConfigError, ValueSources
from knative.local.kubelet.gpus import GpuMeter, GpuSlots
from knative.local.kubelet.limit_enforcer import LimitEnforcer, LimitMechanism
from knative.local.kubelet.logs import ContainerLogs
from knative.local.kubelet.pod_runtime import PodRuntime
from knative.local.kubelet.pod_worker import PodWorker
from knative.local.kubelet.ports import PortAllocator
from knative.local.kubelet.preimported import Forkserver, Preimported
from knative.local.kubelet.probes import Prober
from knative.local.kubelet.volumes import Volumes
from knative.local.routing import RevisionKey
from knative.service_token import service_token

log = logging.getLogger(__name__)

NODE = "localhost"
"""The name of the one node."""
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "LD_LIBRARY_PATH")
_DEFAULT_GRACE_S = 30
"""The API's default grace period of a deletion; a pod's own terminationGracePeriodSeconds counts instead."""

Drained = Callable[[RevisionKey, str, float], Awaitable[bool]]
"""Waits until a Revision's pod has no request in flight, for so many seconds at most."""


@dataclass(frozen=True, slots=True)
class ReplicaTls:
    """TLS between the platform and its replicas."""

    folder: Path
    """With the replicas' certificate; they are told where it is."""
    context: ssl.SSLContext
    """For connections to them."""
    spoken_by: Callable[[Mapping[str, Any]], bool]
    """Whether a pod's process can speak TLS: those of users may not know how."""


@dataclass(frozen=True, slots=True)
class KubeletConfig:
    """How pods are run."""

    host: str
    """Address that pods listen on."""
    gateway_url: str
    """Where the other Services answer, for the pods' environment."""
    logs: Path
    """The folder of the containers' output."""
    volumes: Path
    """Where folders made for a pod are."""
    claims: Path
    """Where the folders of PersistentVolumeClaims are, `NAMESPACE/NAME`."""
    runs: Path
    """Where stages keep their durable runs, a folder for each namespace."""
    platform_id: str
    """Identifies the platform's processes in their environment, so that a later one can end them."""
    workdir: Path
    """Where a container runs that names no workingDir."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of every container, below its own variables."""
    admin_key: str | None = None
    """Derives the ADMIN_TOKEN of every Service's containers; None: they have none but their own."""
    tls: ReplicaTls | None = None
    """None: replicas speak plain HTTP."""
    backoff_s: float = 10.0
    """Wait before the second restart in a row, in seconds; doubles each time."""
    stop_grace_s: float = 10.0
    """Seconds from SIGTERM to SIGKILL when the platform stops."""
    cgroups: Path | None = None
    """The file that remembers where control groups were made; None: none are made."""
    preimported: Preimported | None = None
    """A Python module whose containers are forked from a process that has imported it."""


class Kubelet:
    """Starts, watches and ends the processes of all pods.

    Args:
        registry: the pods, ConfigMaps and Secrets.
        drained: waits for the requests in flight at a pod that is to end.
        config: how pods are run.
        slots: the GPU slots.
        meter: counts the seconds for which slots are held.
        recorder: takes Events.
        now: the wall clock.
    """

    def __init__(
        self,
        registry: Registry,
        drained: Drained,
        config: KubeletConfig,
        *,
        slots: GpuSlots,
        meter: GpuMeter,
        recorder: EventRecorder,
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._revision_drained = drained
        self._config = config
        self._meter = meter
        self._events = recorder
        self._now = now
        self._workers: dict[Key, PodWorker] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._slots_released = asyncio.Condition()
        self._prober = Prober(config.host, None if config.tls is None else config.tls.context)
        self.logs = ContainerLogs(config.logs)
        self._volumes = Volumes(config.volumes, config.claims)
        self._limits = LimitEnforcer(f"pilotlight-{config.platform_id}", config.cgroups)
        self._stopping = False
        identity = {process.PLATFORM_VARIABLE: config.platform_id}
        self._forkserver = Forkserver(config.preimported, self._base_env(), identity, config.workdir)
        self._runtime = PodRuntime(
            host=config.host,
            workdir=config.workdir,
            base_env=self._base_env(),
            service_env=self._service_env,
            identity_env=identity,
            backoff_s=config.backoff_s,
            ports=PortAllocator(config.host),
            prober=self._prober,
            logs=self.logs,
            slots=slots,
            volumes=self._volumes,
            limits=self._limits,
            forkserver=self._forkserver,
            now=now,
            config_maps=lambda namespace, name: self._object(resources.CONFIG_MAP, namespace, name),
            secrets=lambda namespace, name: self._object(resources.SECRET, namespace, name),
            write_status=self._write_status,
            slot_released=self._slot_released,
            emit_event=self._emit_event,
            on_scheduled=self._on_scheduled,
            on_ready=self._on_ready,
            drained=self._drained,
        )

    def _base_env(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return {
            "PATH": os.defpath,
            **inherited,
            **self._config.env,
            env_vars.HOST: self._config.host,
            env_vars.GATEWAY: self._config.gateway_url,
            "PYTHONUNBUFFERED": "1",
        }

    def _service_env(self, key: Key) -> dict[str, str]:
        """What a pod's containers have in their environment because of their Service."""
        pod = self._object(resources.POD, key.namespace, key.name)
        service = objects.labels_of(pod).get(SERVICE_LABEL) if pod is not None else None
        if pod is None or service is None:
            return {}
        env = {env_vars.RUNS_DIR: str(self._config.runs / key.namespace)}
        if self._config.admin_key is not None:
            env[env_vars.ADMIN_TOKEN] = service_token(self._config.admin_key, key.namespace, service)
        if self._config.tls is not None and self._config.tls.spoken_by(pod):
            env[env_vars.TLS_DIR] = str(self._config.tls.folder)
        return env

    # start and stop

    async def remove_leftovers(self) -> None:
        """End the processes of an earlier platform of this state folder, and delete its pods."""
        ended = await asyncio.to_thread(process.end_all, self._config.platform_id)
        if ended:
            log.warning("ended %d processes that an earlier platform left", ended)
        for record in self._store.list(resources.POD):
            self._store.remove(record.key)
        await asyncio.to_thread(self._volumes.clear)
        await self._limits.start()

    @property
    def limit_mechanism(self) -> LimitMechanism:
        """What enforces the limits of containers on this machine."""
        return self._limits.mechanism

    def start(self) -> None:
        """Run the pods that are there, and follow the store from now on."""
        self._store.subscribe(self._on_store_change)
        self._store.on_reset(self._resync)
        for record in self._store.list(resources.POD):
            self._start_worker(record.key, record.obj)

    async def stop(self) -> None:
        """End all pods; no process of them is left on return."""
        self._stopping = True
        for worker in self._workers.values():
            worker.terminate(grace_s=self._config.stop_grace_s, drain=False)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        await self._prober.close()
        self._forkserver.close()
        await asyncio.to_thread(process.end_all, self._config.platform_id, 1.0)
        await self._limits.stop()
        await asyncio.to_thread(self._volumes.clear)

    def start_phase(self, revision: RevisionKey) -> str:
        """What the first replica of a Revision is doing on its way to ready."""
        found = "schedule"
        for key in self._workers:
            pod = self._object(resources.POD, key.namespace, key.name)
            if key.namespace != revision.namespace or pod is None:
                continue
            if objects.labels_of(pod).get(REVISION_LABEL) != revision.name:
                continue
            port = objects.annotations_of(pod).get(PORT_ANNOTATION, "")
            if port:
                found = "import"  # its process runs, and says nothing yet
            if port.isdecimal() and (phase := self._prober.phases.get(int(port))) is not None:
                return phase
        return found

    async def rotate_logs(self) -> None:
        """Rotate long logs, and delete old ones of pods that are gone."""
        running = {(key.namespace, key.name) for key in self._workers}
        await asyncio.to_thread(self.logs.rotate, running)

    # pods

    def _on_store_change(self, change: Change) -> None:
        key, obj = change.record.key, change.record.obj
        if key.resource in {resources.CONFIG_MAP, resources.SECRET}:
            self._refresh_volumes(key)
            return
        if key.resource != resources.POD:
            return
        if change.type is EventType.ADDED:
            self._start_worker(key, obj)
            return
        worker = self._workers.get(key)
        if worker is None:
            return
        if change.type is EventType.DELETED:
            worker.terminate(grace_s=0.0, drain=False)  # deleted by force: nothing is waited for
        elif obj["metadata"].get("deletionTimestamp"):
            grace = obj["metadata"].get("deletionGracePeriodSeconds")
            own = obj["spec"].get("terminationGracePeriodSeconds")
            worker.terminate(grace_s=float(own if grace in (None, _DEFAULT_GRACE_S) and own else grace or 0))

    def _refresh_volumes(self, changed: Key) -> None:
        """Bring the volumes of running pods up to date that are made of a ConfigMap or Secret."""
        for key in self._workers:
            pod = self._object(resources.POD, key.namespace, key.name)
            if key.namespace != changed.namespace or pod is None:
                continue
            sources = ValueSources(
                functools.partial(self._object, resources.CONFIG_MAP, key.namespace),
                functools.partial(self._object, resources.SECRET, key.namespace),
            )
            try:
                self._volumes.refresh(key.namespace, key.name, pod["spec"].get("volumes") or (), sources)
            except (ContainerConfigError, OSError) as problem:
                # As on a cluster: the files stay as they are until the object is there and whole again.
                log.warning("the volumes of pod %s/%s stay: %s", key.namespace, key.name, problem)

    def _resync(self) -> None:
        """The store went back to what its disk holds: pods may have come back or gone."""
        for key, worker in self._workers.items():
            if self._store.get(key) is None:
                worker.terminate()
            else:
                worker.write_status()
        for record in self._store.list(resources.POD):
            self._start_worker(record.key, record.obj)

    def _start_worker(self, key: Key, pod: Object) -> None:
        if self._stopping or key in self._workers:
            return
        worker = self._workers[key] = PodWorker(key, pod, self._runtime)
        task = asyncio.get_running_loop().create_task(worker.run(), name=f"pod {key.namespace}/{key.name}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._on_worker_done(key, done))

    def _on_worker_done(self, key: Key, task: asyncio.Task[None]) -> None:
        del self._workers[key], self._tasks[key]
        self._meter.end(f"{key.namespace}/{key.name}")
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("the worker of pod %s/%s failed", key.namespace, key.name, exc_info=problem)
        with contextlib.suppress(RuntimeError):  # the event loop is closing
            asyncio.get_running_loop().create_task(self._notify_slot_released())
        self._registry.finish_deletion(key)

    # callbacks of the workers

    async def _slot_released(self) -> None:
        async with self._slots_released:
            await self._slots_released.wait()

    async def _notify_slot_released(self) -> None:
        async with self._slots_released:
            self._slots_released.notify_all()

    def _write_status(self, key: Key, status: Object, annotations: Mapping[str, str]) -> None:
        record = self._store.get(key)
        if record is None:
            return
        listed = conditions.written(
            status["conditions"], conditions.before(record.obj), objects.timestamp(self._now())
        )
        status = {**status, "conditions": listed}
        meta = record.obj["metadata"]
        others = {
            name: value
            for name, value in objects.annotations_of(record.obj).items()
            if not name.startswith(f"{PILOTLIGHT}/")
        }
        wanted = {**others, **annotations}
        if record.obj.get("status") == status and objects.annotations_of(record.obj) == wanted:
            return
        obj = {**record.obj, "metadata": {**meta, "annotations": wanted}, "status": status}
        if status["phase"] != "Pending" or "podIP" in status:
            obj["spec"] = {**record.obj["spec"], "nodeName": NODE}
        self._registry.write_status(record, obj)

    def _emit_event(self, key: Key, kind: str, reason: str, message: str) -> None:
        record = self._store.get(key)
        if record is not None:
            emit = self._events.warning if kind == "Warning" else self._events.normal
            emit(record.obj, reason, message)

    def _on_scheduled(self, key: Key) -> None:
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

    def _on_ready(self, key: Key, ready: bool) -> None:  # noqa: FBT001  # the value is the state
        self._meter.set_ready(f"{key.namespace}/{key.name}", ready=ready)

    async def _drained(self, key: Key, timeout_s: float) -> bool:
        pod = self._object(resources.POD, key.namespace, key.name)
        revision = objects.labels_of(pod).get(REVISION_LABEL, "") if pod is not None else ""
        return await self._revision_drained(RevisionKey(key.namespace, revision), key.name, timeout_s)

    def _object(self, resource: resources.Resource, namespace: str, name: str) -> Mapping[str, Any] | None:
        record = self._store.get(Key(resource, namespace, name))
        return None if record is None else record.obj
