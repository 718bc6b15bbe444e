"""A Knative for one machine, assembled: store, API, controllers, autoscaler, activator, kubelet.

Everything runs on one event loop of one process; the only other thread writes the store's file.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import socket
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import uvicorn

from knative.client import resources
from knative.local import activator as gateway
from knative.local.activator import Activator
from knative.local.activator.access import AccessPolicy
from knative.local.apiserver import certificates, kinds
from knative.local.apiserver.admission import unsupported
from knative.local.apiserver.admission.by_kind import admissions
from knative.local.apiserver.admission.config_map_webhook import ConfigMapAdmission
from knative.local.apiserver.admission.validating_function import FunctionAdmission
from knative.local.apiserver.api.app import Api
from knative.local.apiserver.api.server import ApiProtocol, ApiServer
from knative.local.apiserver.records import StoreError
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Store
from knative.local.certificate_authority import CertificateAuthority
from knative.local.controllers import settings as serving_settings
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.controllers.controller_manager import ControllerManager
from knative.local.controllers.event_emitter import EventEmitter
from knative.local.controllers.settings import KnativeSettings
from knative.local.controllers.work_queue import WorkQueue
from knative.local.event_recorder import EventRecorder
from knative.local.kubelet import Kubelet, KubeletConfig, ReplicaTls
from knative.local.kubelet.gpus import GpuMeter, GpuSlots
from knative.local.platform import background, controllers, kubeconfig
from knative.local.platform.bootstrap import create_initial_objects
from knative.local.platform.config import LOOPBACK, PlatformConfig, PlatformError
from knative.local.platform.listeners import LOOPBACK_IPV6, listen
from knative.local.platform.metrics import PlatformMetrics
from knative.local.platform.state_folder import StateFolder
from transport.mutual_tls import MutualTls
from transport.request_head import HeadLimits, with_head_limits
from transport.spans import Spans

log = logging.getLogger(__name__)

_HOUSEKEEPING_S = 10.0
_RENEWAL_S = 2.0
"""Between two looks at the certificates' age; replicas look for new ones as often."""
_REVISION_GC_ROUNDS = 360
"""Rounds of housekeeping from one garbage collection of Revisions to the next: an hour."""


class _LimitWarnings:
    """Admission's warnings about limits that nothing on this machine enforces."""

    def __init__(self) -> None:
        self.cpu_is_limited = True
        """Set once the means of enforcing limits is known, which is before any client connects."""

    def __call__(self, spec: Mapping[str, Any]) -> Iterator[str]:
        return unsupported.warnings(spec, limits_cpu=self.cpu_is_limited)


class Platform:
    """One platform. Use it as an async context manager, or call `start()` and `stop()`."""

    def __init__(self, config: PlatformConfig) -> None:
        self.config = config
        self._folder = StateFolder(config.state_dir)
        self._stack = contextlib.AsyncExitStack()
        self._gateway_port = config.gateway_port
        self._api_port = config.api_port
        self._running = False
        self._kubelet: Kubelet | None = None
        self._replica_tls: ssl.SSLContext | None = None

    # addresses

    @property
    def gateway_url(self) -> str:
        """The URL below which functions answer, `/NAMESPACE/NAME/`."""
        return f"http://{self._authority(self._gateway_port)}"

    @property
    def api_url(self) -> str:
        """The URL of the Kubernetes API and of `/metrics`; the same port accepts TLS too."""
        return f"http://{self._authority(self._api_port)}"

    @property
    def kubeconfig(self) -> Path:
        """The file that leads clients to the API; it exists while the platform runs."""
        return self._folder.kubeconfig

    @property
    def logs(self) -> Path:
        """The folder of the replicas' output, `NAMESPACE/POD.log`."""
        return self._folder.logs

    @property
    def limits(self) -> str:
        """How the memory and CPU limits of containers are enforced, in a few words; known once it runs."""
        mechanism = None if self._kubelet is None else self._kubelet.limit_mechanism
        if mechanism is None or not mechanism.limits_cpu:
            return "memory sampled each second, CPU not limited"
        return f"memory and CPU by {mechanism}"

    @property
    def replica_tls(self) -> ssl.SSLContext | None:
        """For connections to replicas; known once it runs. None: they speak plain HTTP."""
        return self._replica_tls

    def _authority(self, port: int) -> str:
        host = self.config.public_host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # life cycle

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
        """Stop everything: responses in progress end, replicas get SIGTERM and then SIGKILL, ports close."""
        if self._running:
            self._running = False
            await self._stack.aclose()

    async def _start(self) -> None:
        config, folder = self.config, self._folder
        self._stack.enter_context(folder.locked())
        gateway_sockets = self._listen(config.gateway_port, "gateway")
        api_sockets = self._listen(config.api_port, "API")
        self._gateway_port = gateway_sockets[0].getsockname()[1]
        self._api_port = api_sockets[0].getsockname()[1]
        certificate = certificates.ensure(
            folder.path, sorted({LOOPBACK, LOOPBACK_IPV6, "localhost", config.public_host})
        )
        store = self._open_store()
        platform_id = store.read_meta("platform") or store.write_meta("platform", str(uuid.uuid4()))
        token = store.read_meta("token") or store.write_meta("token", secrets.token_urlsafe(32))

        settings = KnativeSettings(store)
        limit_warnings = _LimitWarnings()
        checks = {
            **admissions(lambda: settings.features, limit_warnings),
            resources.CONFIG_MAP: ConfigMapAdmission(serving_settings.NAMESPACE, serving_settings.PARSERS),
            **{kind: FunctionAdmission(kind, function) for kind, function in config.validating.items()},
        }
        registry = Registry(store, kinds.load(), checks, _utc_now)
        create_initial_objects(registry)
        registry.collect_garbage()

        certified = self._certified()
        queue = WorkQueue()
        autoscaler = Autoscaler(time.monotonic, queue.add_scaled)
        activator = Activator(
            autoscaler.record,
            time.monotonic,
            access=_access_policy(config),
            progress_s=config.progress_s,
            spans=None if config.spans is None else Spans(config.spans, "activator"),
            tls=None if certified is None else certified.context,
        )
        slots = GpuSlots(config.gpus)
        meter = GpuMeter(time.monotonic, activator.busy_seconds)
        kubelet = Kubelet(
            registry,
            activator.drained,
            self._kubelet_config(platform_id, certified),
            slots=slots,
            meter=meter,
            recorder=EventRecorder(registry, _utc_now, "kubelet"),
            now=_utc_now,
        )
        activator.start_phase = kubelet.start_phase
        await kubelet.remove_leftovers()
        limit_warnings.cpu_is_limited = kubelet.limit_mechanism.limits_cpu
        events = EventRecorder(registry, _utc_now)
        EventEmitter(store, events)
        manager = controllers.assemble(
            registry,
            queue,
            activator,
            autoscaler,
            settings=settings,
            recorder=events,
            url_of=self._url_of,
            before_removal=meter.settle,
            now=_utc_now,
        )
        metrics = PlatformMetrics(registry, autoscaler, slots, meter, kubelet.limit_mechanism)
        more_metrics = config.more_metrics or str
        api = Api(
            registry,
            token=token,
            metrics=lambda: activator.metrics() + metrics.render() + more_metrics(),
            now=_utc_now,
            log_path=kubelet.logs.path,
            address=self._authority(self._api_port),
            hosts=config.hosts,
            body_timeout_s=config.api_body_timeout_s,
            pages=config.pages,
        )

        kubelet.start()
        self._kubelet = kubelet
        self._stack.push_async_callback(kubelet.stop)
        manager.start()
        await manager.settle()  # before the first request, for which an existing Service must not be unknown
        await background.serve(
            gateway.server(activator, host=config.host, limits=config.head_limits),
            gateway_sockets,
            self._stack,
        )
        background.run(manager.run(), "controller manager", self._stack)
        background.run(autoscaler.run(), "autoscaler", self._stack)
        background.run(_housekeeping(events, kubelet, manager), "housekeeping", self._stack)
        background.run(api.run(), "API", self._stack)
        await background.serve(_api_server(api, certificate, config.head_limits), api_sockets, self._stack)
        self._stack.callback(api.watches.end)
        server = f"https://{self._authority(self._api_port)}"
        self._stack.enter_context(
            kubeconfig.written(folder.kubeconfig, server=server, token=token, certificate=certificate)
        )

    def _listen(self, port: int, server: str) -> list[socket.socket]:
        sockets = listen(self.config.host, port, server)
        for listener in sockets:
            self._stack.callback(listener.close)
        return sockets

    def _open_store(self) -> Store:
        store = Store(self._folder.database)
        try:
            store.open(asyncio.get_running_loop())
        except StoreError as problem:
            raise PlatformError(f"{problem}; move the file away to start afresh") from problem
        self._stack.push_async_callback(asyncio.to_thread, store.close)
        return store

    def _certified(self) -> ReplicaTls | None:
        """Certificates for what passes between this platform and its replicas, renewed while it runs."""
        config = self.config
        if config.speaks_tls is None:
            return None
        authority = CertificateAuthority(self._folder.tls, config.certificate_lifetimes)
        try:
            authority.renew(_utc_now())
            client = MutualTls.client(authority.clients)
        except OSError as problem:
            raise PlatformError(
                f"{self._folder.tls}: no certificates can be made there: {problem}"
            ) from problem
        self._replica_tls = client.context
        background.run(_renewal(authority, client), "certificates", self._stack)
        return ReplicaTls(authority.replicas, client.context, config.speaks_tls)

    def _kubelet_config(self, platform_id: str, tls: ReplicaTls | None) -> KubeletConfig:
        config, folder = self.config, self._folder
        return KubeletConfig(
            host=LOOPBACK,
            gateway_url=self.gateway_url,
            logs=folder.logs,
            volumes=folder.volumes,
            claims=folder.claims,
            runs=folder.runs,
            platform_id=platform_id,
            workdir=config.workdir,
            env=config.env,
            admin_key=config.admin_key,
            tls=tls,
            backoff_s=config.crash_backoff_s,
            stop_grace_s=config.stop_grace_s,
            cgroups=folder.cgroups if config.cgroups else None,
            preimported=config.preimported,
        )

    def _url_of(self, name: str, namespace: str) -> str:
        return f"http://{name}.{namespace}.localhost:{self._gateway_port}"


def _access_policy(config: PlatformConfig) -> AccessPolicy:
    return AccessPolicy(config.hosts, frozenset(origin.lower() for origin in config.allowed_origins))


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def _renewal(authority: CertificateAuthority, client: MutualTls) -> None:
    while True:
        await asyncio.sleep(_RENEWAL_S)
        try:
            await asyncio.to_thread(authority.renew, _utc_now())
        except OSError as problem:  # tried again until the certificates end
            log.warning("certificates cannot be renewed: %s", problem)
        client.refresh()


async def _housekeeping(events: EventRecorder, kubelet: Kubelet, manager: ControllerManager) -> None:
    for finished in itertools.count(1):
        await asyncio.sleep(_HOUSEKEEPING_S)
        events.expire()
        await kubelet.rotate_logs()
        if finished % _REVISION_GC_ROUNDS == 0:
            manager.collect_revisions()


def _api_server(api: Api, certificate: Path, limits: HeadLimits) -> uvicorn.Server:
    return ApiServer(
        uvicorn.Config(
            api,
            http=with_head_limits(ApiProtocol, limits),
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            # Longer than clients keep a connection, so that none is closed while a request is on its way.
            timeout_keep_alive=75,
        ),
        certificates.context(certificate),
        limits.timeout_s,
    )
