"""A Knative for one machine, put together: store, API, reconcilers, autoscaler, activator, replicas.

Everything runs on one event loop of one process; the only other thread writes the store's file.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import itertools
import logging
import os
import secrets
import socket
import time
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import uvicorn
import yaml

from knative.client import resources
from knative.client.resources import Object
from knative.local import activator as gateway
from knative.local import objects
from knative.local.activator import Activator
from knative.local.apiserver import certificates, kinds
from knative.local.apiserver.admission import admissions, unsupported
from knative.local.apiserver.admission.config_map_webhook import ConfigMapAdmission
from knative.local.apiserver.api.app import Api
from knative.local.apiserver.api.server import ApiServer
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Key, Store, StoreError
from knative.local.controllers import settings as settings_of_knative
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.controllers.controller_manager import ControllerManager
from knative.local.controllers.dependencies import Dependencies
from knative.local.controllers.event_emitter import EventEmitter
from knative.local.controllers.reconcilers.configuration import ConfigurationReconciler
from knative.local.controllers.reconcilers.pod_autoscaler import PodAutoscalerReconciler
from knative.local.controllers.reconcilers.revision import RevisionReconciler
from knative.local.controllers.reconcilers.route import RouteReconciler
from knative.local.controllers.reconcilers.service import ServiceReconciler
from knative.local.controllers.settings import KnativeSettings
from knative.local.controllers.work_queue import WorkQueue
from knative.local.event_recorder import EventRecorder
from knative.local.kubelet import Kubelet, KubeletConfig
from knative.local.kubelet.gpus import GpuMeter, GpuSlots
from knative.local.platform.metrics import PlatformMetrics

log = logging.getLogger(__name__)

KNATIVE_VERSION = "1.23.0"
"""The Knative Serving version whose behaviour is followed; a label of its namespace says so."""
_LOOPBACK = "127.0.0.1"
_HOUSEKEEPING_S = 10.0
_COLLECT_BEATS = 360  # Revisions are collected once an hour
_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # compared with, not bound to


class PlatformError(Exception):
    """The platform can't start; the text says why and what to do. Nothing was left running."""


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """How a platform is set up."""

    state_dir: Path
    """Where everything is kept: objects, logs, kubeconfig, lock. One platform for each folder."""
    host: str = _LOOPBACK
    """Address of gateway and API; replicas listen on the loopback address always."""
    gateway_port: int = 8080
    """Where function URLs answer; 0 picks a free port."""
    api_port: int = 8081
    """Where the Kubernetes API and the metrics answer; 0 picks a free port."""
    gpus: int = 0
    """GPU slots: GPUs of the machine, or stand-ins on a machine without."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Given to every replica, under its container's own variables."""
    workdir: Path = field(default_factory=Path.cwd)
    """Where replicas run whose container names no workingDir."""
    crash_backoff_s: float = 10.0
    """Wait before a crashing replica's second restart; doubles each time, up to five minutes."""
    stop_grace_s: float = 10.0
    """From SIGTERM to SIGKILL when the platform stops."""
    cgroups: bool = True
    """Whether control groups hold the limits of containers where the machine permits them; without, memory
    is looked at once a second and CPU is not limited."""


class Platform:
    """One running platform. Use as an async context manager, or `start()` and `stop()`."""

    def __init__(self, config: PlatformConfig) -> None:
        self.config = config
        self._stack = contextlib.AsyncExitStack()
        self._gateway_port = config.gateway_port
        self._api_port = config.api_port
        self._running = False
        self._kubelet: Kubelet | None = None

    # where it is

    @property
    def gateway_url(self) -> str:
        """Where function URLs answer."""
        return f"http://{self._public_host}:{self._gateway_port}"

    @property
    def api_url(self) -> str:
        """Where the Kubernetes API and `/metrics` answer; the same port speaks TLS too."""
        return f"http://{self._public_host}:{self._api_port}"

    @property
    def kubeconfig(self) -> Path:
        """The file that leads clients to the API; there while the platform runs."""
        return self.config.state_dir / "kubeconfig"

    @property
    def logs(self) -> Path:
        """The folder of the replicas' output, `NAMESPACE/POD.log`."""
        return self.config.state_dir / "logs"

    @property
    def limits(self) -> str:
        """What holds the memory and CPU limits of containers, in a few words; known once it runs."""
        mechanism = None if self._kubelet is None else self._kubelet.limit_mechanism
        if mechanism is None or not mechanism.limits_cpu:
            return "memory by a sample each second, CPU not limited"
        return f"memory and CPU by {mechanism}"

    @property
    def _public_host(self) -> str:
        return _LOOPBACK if self.config.host in _ANY else self.config.host

    # life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything; returns when gateway and API answer.

        Raises:
            PlatformError: a port is taken, the state folder is in use or unusable. Nothing is left running.
        """
        if self._running:
            raise PlatformError("this platform is running already")
        self._stack = contextlib.AsyncExitStack()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        self._running = True

    async def stop(self) -> None:
        """Stop everything: answers under way end, replicas get SIGTERM and then SIGKILL, ports close."""
        if self._running:
            self._running = False
            await self._stack.aclose()

    async def _start(self) -> None:
        config = self.config
        self._lock_folder()
        gateway_socket = self._listen(config.gateway_port, "gateway")
        api_socket = self._listen(config.api_port, "API")
        self._gateway_port = gateway_socket.getsockname()[1]
        self._api_port = api_socket.getsockname()[1]
        certificate = certificates.ensure(
            config.state_dir, sorted({_LOOPBACK, "::1", "localhost", self._public_host})
        )
        store = self._open_store()
        platform_id = store.read_meta("platform") or store.write_meta("platform", str(uuid.uuid4()))
        token = store.read_meta("token") or store.write_meta("token", secrets.token_urlsafe(32))
        assert platform_id is not None
        assert token is not None

        settings = KnativeSettings(store)
        checks = {
            **admissions(
                lambda: settings.features,
                lambda spec: unsupported.warnings(spec, limits_cpu=kubelet.limit_mechanism.limits_cpu),
            ),
            resources.CONFIG_MAP: ConfigMapAdmission(
                settings_of_knative.NAMESPACE, settings_of_knative.PARSERS
            ),
        }
        registry = Registry(store, kinds.load(), checks, _utc_now)
        self._make_namespaces(registry)
        _make_settings(registry)
        registry.collect_garbage()

        queue = WorkQueue()
        autoscaler = Autoscaler(time.monotonic, queue.add_scaled)
        activator = Activator(autoscaler.record, time.monotonic)
        slots = GpuSlots(config.gpus)
        meter = GpuMeter(time.monotonic, activator.busy_seconds)
        kubelet = Kubelet(
            registry,
            lambda key, pod, seconds: activator.drained(key, pod, timeout_s=seconds),
            KubeletConfig(
                host=_LOOPBACK,
                gateway_url=self.gateway_url,
                logs=self.logs,
                volumes=config.state_dir / "volumes",
                claims=config.state_dir / "claims",
                platform_id=platform_id,
                workdir=config.workdir,
                env=config.env,
                backoff_s=config.crash_backoff_s,
                stop_grace_s=config.stop_grace_s,
                cgroups=config.state_dir / "cgroups" if config.cgroups else None,
            ),
            slots=slots,
            meter=meter,
            recorder=EventRecorder(registry, _utc_now, "kubelet"),
            now=_utc_now,
        )
        events = EventRecorder(registry, _utc_now)
        EventEmitter(store, events)
        dependencies = Dependencies(store)
        pod_autoscalers = PodAutoscalerReconciler(
            registry, activator, autoscaler, settings=settings, now=_utc_now
        )
        control = ControllerManager(
            store,
            queue,
            dependencies,
            {
                resources.SERVICE: ServiceReconciler(registry, queue, _utc_now),
                resources.CONFIGURATION: ConfigurationReconciler(registry, settings, events, _utc_now),
                resources.ROUTE: RouteReconciler(
                    registry, activator, dependencies, url_of=self._url_of, now=_utc_now
                ),
                resources.REVISION: RevisionReconciler(
                    registry,
                    activator,
                    pod_autoscalers,
                    recorder=events,
                    before_removal=meter.settle,
                    now=_utc_now,
                ),
                resources.POD_AUTOSCALER: pod_autoscalers,
            },
        )
        metrics = PlatformMetrics(registry, autoscaler, slots, meter, lambda: kubelet.limit_mechanism)
        api = Api(
            registry,
            token=token,
            metrics=lambda: activator.metrics() + metrics.render(),
            now=_utc_now,
            log_path=kubelet.logs.path,
            address=f"{self._public_host}:{self._api_port}",
        )

        await kubelet.remove_leftovers()
        kubelet.start()
        self._kubelet = kubelet
        self._stack.push_async_callback(kubelet.stop)
        control.start()
        await control.settle()  # before the first request, or a Service that is there would be unknown
        await self._serve(gateway.server(activator, host=config.host), gateway_socket)
        self._background(control.run(), "control plane")
        self._background(autoscaler.run(), "autoscaler")
        self._background(_housekeeping(events, kubelet, control), "housekeeping")
        self._background(api.run(), "API")
        await self._serve(_api_server(api, certificate), api_socket)
        self._stack.callback(api.watches.end)
        self._write_kubeconfig(token, certificate)

    # parts

    def _lock_folder(self) -> None:
        """One platform for each state folder."""
        folder = self.config.state_dir
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.logs.mkdir(exist_ok=True, mode=0o700)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise PlatformError(
                f"cannot use the state folder {folder}: {problem.strerror}; choose one that can be written"
            ) from problem
        self._stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            raise PlatformError(
                f"the state folder {folder} is in use by the platform with process id {owner}; "
                "stop that one, or choose another folder"
            ) from problem
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())

    def _listen(self, port: int, what: str) -> socket.socket:
        host = self.config.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # With the protocol named, asyncio turns Nagle's algorithm off; without it, it leaves it on.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as problem:
            listener.close()
            raise PlatformError(
                f"cannot listen on {host}:{port} for the {what}: {problem.strerror}; "
                f"end what uses it, or choose another {what} port (0 picks a free one)"
            ) from problem
        self._stack.callback(listener.close)
        return listener

    def _open_store(self) -> Store:
        store = Store(self.config.state_dir / "state.db")
        try:
            store.open(asyncio.get_running_loop())
        except StoreError as problem:
            raise PlatformError(f"{problem}; move the file away to start afresh") from problem
        self._stack.push_async_callback(asyncio.to_thread, store.close)
        return store

    def _make_namespaces(self, registry: Registry) -> None:
        for name, labels in (
            ("default", {}),
            (
                "knative-serving",
                {"app.kubernetes.io/name": "knative-serving", "app.kubernetes.io/version": KNATIVE_VERSION},
            ),
        ):
            key = Key(resources.NAMESPACE, "", name)
            wanted = {"kubernetes.io/metadata.name": name, **labels}
            found = registry.store.get(key)
            if found is None:
                registry.create(
                    resources.NAMESPACE,
                    "",
                    objects.typed(
                        resources.NAMESPACE,
                        {
                            "metadata": {"name": name, "labels": wanted},
                            "spec": {"finalizers": ["kubernetes"]},
                            "status": {"phase": "Active"},
                        },
                    ),
                )
            elif not wanted.items() <= objects.labels_of(found.obj).items():
                changed = objects.clone(found.obj)
                changed["metadata"]["labels"] = {**objects.labels_of(found.obj), **wanted}
                registry.update(key, changed)

    def _url_of(self, name: str, namespace: str) -> str:
        return f"http://{name}.{namespace}.localhost:{self._gateway_port}"

    async def _serve(self, server: uvicorn.Server, listener: socket.socket) -> None:
        """Run a server until the platform stops; returns when it answers."""
        # Signals belong to whoever runs the platform.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]), name="server")

        async def stop() -> None:
            server.should_exit = True
            await task

        self._stack.push_async_callback(stop)
        while not server.started:
            if task.done():
                task.result()
                raise PlatformError("a server ended before it answered")
            await asyncio.sleep(0.01)

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(_complain)

        async def stop() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(stop)

    def _write_kubeconfig(self, token: str, certificate: Path) -> None:
        server = {
            # client-go keeps a token to itself unless the server speaks TLS.
            "server": self.api_url.replace("http://", "https://"),
            "certificate-authority-data": base64.b64encode(certificate.read_bytes()).decode(),
        }
        content: Object = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "pilotlight",
            "clusters": [{"name": "pilotlight", "cluster": server}],
            "users": [{"name": "pilotlight", "user": {"token": token}}],
            "contexts": [
                {
                    "name": "pilotlight",
                    "context": {"cluster": "pilotlight", "user": "pilotlight", "namespace": "default"},
                }
            ],
        }
        fresh = self.kubeconfig.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            yaml.safe_dump(content, file, sort_keys=False)
        fresh.replace(self.kubeconfig)
        self._stack.callback(self.kubeconfig.unlink, missing_ok=True)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _make_settings(registry: Registry) -> None:
    """The ConfigMaps that are read, so that they can be patched and edited as on a cluster."""
    for name in settings_of_knative.PARSERS:
        if registry.store.get(Key(resources.CONFIG_MAP, settings_of_knative.NAMESPACE, name)) is None:
            registry.create(
                resources.CONFIG_MAP, settings_of_knative.NAMESPACE, settings_of_knative.initial(name)
            )


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        log.critical("the platform's %s has failed", task.get_name(), exc_info=problem)


async def _housekeeping(events: EventRecorder, kubelet: Kubelet, control: ControllerManager) -> None:
    for beat in itertools.count(1):
        await asyncio.sleep(_HOUSEKEEPING_S)
        events.expire()
        await kubelet.rotate_logs()
        if beat % _COLLECT_BEATS == 0:
            control.collect_revisions()


def _api_server(api: Api, certificate: Path) -> uvicorn.Server:
    return ApiServer(
        uvicorn.Config(
            api,
            http="httptools",
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            # Longer than clients keep a connection, so that none is closed under a request.
            timeout_keep_alive=75,
        ),
        certificates.context(certificate),
    )
