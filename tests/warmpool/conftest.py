"""The project's own Kubernetes API on a real port, and a fake Knative on it that reacts step by step."""

import asyncio
import copy
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
import yaml

from knative.autoscaling.annotations import GROUP
from knative.client.cluster import Cluster
from knative.client.resources import NAMESPACE, POD, POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL
from knative.local.apiserver import kinds
from knative.local.apiserver.api.app import Api
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Store
from knative.local.controllers.desired_state import revisions
from warmpool.adapters.clock import SystemClock
from warmpool.adapters.price_file import packaged_prices
from warmpool.controller import Controller

KINDS = kinds.load()  # reading YAML takes longer than most tests
MIN = "autoscaling.knative.dev/min-scale"
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
OFFICE = {"name": "office-hours", "days": ["Mon-Fri"], "from": "08:00", "to": "19:00", "replicas": 2}


def make_controller(cluster, **options) -> Controller:
    """A controller with the machine's clock and the packaged prices, unless a test has its own."""
    return Controller(cluster, **{"clock": SystemClock(), "prices": packaged_prices(), **options})


class MovableClock:
    """A clock that a test moves."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def on(self, span: timedelta) -> datetime:
        self.at += span
        return self.at


class RecordingWaker:
    """Records wake-up requests; the fake autoscaler reacts to them."""

    def __init__(self, fake) -> None:
        self.fake = fake
        self.woken = []

    async def wake(self, service, urls) -> None:
        assert all(url.startswith("http") for url in urls)
        self.woken.append(service)
        self.fake.deaf.discard(service[1])

    async def close(self) -> None:
        return


class FakeKnative:
    """Knative's reactions, one `settle` at a time, with switches for what can go wrong."""

    def __init__(self, registry: Registry, cluster: Cluster) -> None:
        self.registry = registry
        self.cluster = cluster
        self.capacity = 100
        self.deaf: set[str] = set()
        """Services whose autoscaler has no data since it restarted."""
        self.old = False
        """Knative before 1.21: Revision annotations are not copied to the PodAutoscaler."""
        self.starting: dict[str, int] = {}
        """Replicas that are not ready yet, by Revision."""
        self.demand: dict[str, int] = {}
        """Replicas that traffic wants, by Revision."""

    def service(
        self, name, traffic=None, *, namespace="default", gpus=1, annotations=None, latest=None
    ) -> None:
        """Make a Service with one Revision for each entry of `traffic` (percent, or percent and tag)."""
        traffic = traffic or {f"{name}-00001": 100}
        container = {"name": "user-container", "image": "registry.local/x"}
        if gpus:
            container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
        spec = {"template": {"spec": {"containers": [container]}}}
        key = Key(SERVICE, namespace, name)
        if self.registry.store.get(key) is None:
            obj = {
                "apiVersion": "serving.knative.dev/v1",
                "kind": "Service",
                "metadata": {"name": name},
                "spec": spec,
            }
            self.registry.create(SERVICE, namespace, obj)
        for revision in traffic:
            if self.registry.store.get(Key(REVISION, namespace, revision)) is None:
                self.revision(name, revision, namespace=namespace, annotations=annotations)
        self.route(name, traffic, namespace=namespace, latest=latest)

    def route(self, name, traffic, *, namespace="default", latest=None, ready=None) -> None:
        """Divide the Service's traffic; with `latest`, a newer Revision is being rolled out."""
        entries = []
        for revision, part in traffic.items():
            percent, tag = part if isinstance(part, tuple) else (part, None)
            follows = {"latestRevision": True} if len(traffic) == 1 else {}
            entries.append(
                {"revisionName": revision, "percent": percent} | follows | ({"tag": tag} if tag else {})
            )
        newest = latest or max(traffic)
        self.registry.set_status(
            Key(SERVICE, namespace, name),
            {
                "url": f"http://{name}.{namespace}.localhost",
                "latestCreatedRevisionName": newest,
                "latestReadyRevisionName": ready or max(traffic),
                "traffic": entries,
            },
        )

    def revision(self, service, name, *, namespace="default", annotations=None) -> None:
        """Make a Revision with its PodAutoscaler."""
        meta = {
            "name": name,
            "labels": {"serving.knative.dev/service": service},
            "annotations": dict(annotations or {}),
        }
        pod = {"containers": [{"name": "user-container", "image": "registry.local/x"}]}
        revision = {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": meta, "spec": pod}
        self.registry.create(REVISION, namespace, copy.deepcopy(revision))
        spec = {
            "protocolType": "http1",
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        }
        scale = {
            "apiVersion": POD_AUTOSCALER.api_version,
            "kind": "PodAutoscaler",
            "metadata": meta,
            "spec": spec,
        }
        self.registry.create(POD_AUTOSCALER, namespace, copy.deepcopy(scale))

    def key(self, kind, name, namespace="default") -> Key:
        """The key of an object in the store."""
        return Key(
            {"Revision": REVISION, "Service": SERVICE, "PodAutoscaler": POD_AUTOSCALER}[kind], namespace, name
        )

    def unschedulable(self, name, message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.") -> None:
        """Set the condition of a Revision whose replicas cannot be scheduled."""
        condition = {
            "type": "ResourcesAvailable",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
        self.registry.set_status(Key(REVISION, "default", name), {"conditions": [condition]})

    def waiting_pod(
        self, revision, message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    ) -> None:
        """A pod that cannot be scheduled while its Revision does not report it."""
        key = Key(POD, "default", f"{revision}-waiting")
        labels = {"serving.knative.dev/revision": revision}
        spec = {"containers": [{"name": "user-container", "image": "registry.local/x"}]}
        meta = {"name": key.name, "labels": labels}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        self.registry.create(POD, "default", pod)
        waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.registry.set_status(key, {"phase": "Pending", "conditions": [waits]})

    def placed(self, revision) -> None:
        """Schedule the waiting pod."""
        key = Key(POD, "default", f"{revision}-waiting")
        scheduled = {"type": "PodScheduled", "status": "True"}
        self.registry.set_status(key, {"phase": "Running", "conditions": [scheduled]})

    def settle(self, namespace="default") -> None:
        """Let Knative react to the objects as they are."""
        free = self.capacity
        for record in list(self.registry.store.list(REVISION, namespace)):
            meta = record.obj["metadata"]
            key = Key(POD_AUTOSCALER, namespace, meta["name"])
            found = self.registry.store.get(key)
            if found is None:  # a Revision of which a test only needs the name
                continue
            scale = copy.deepcopy(found.obj)
            annotations = scale["metadata"].setdefault("annotations", {})
            if not self.old:  # as pkg/reconciler/revision/reconcile_resources.go does from Knative 1.21 on
                others = {name: value for name, value in annotations.items() if not name.startswith(GROUP)}
                passed_on = others | revisions.for_autoscaler(meta.get("annotations", {}))
                if passed_on != annotations:
                    scale["metadata"]["annotations"] = annotations = passed_on
                    self.registry.update(key, scale)
            floor = int(annotations.get(MIN) or 0)
            status = scale.get("status") or {}
            desired = max(floor, self.demand.get(meta["name"], 0))
            if meta["labels"]["serving.knative.dev/service"] in self.deaf and not status.get("actualScale"):
                desired = 0
            actual = min(desired, free)
            free -= actual
            actual -= min(actual, self.starting.get(meta["name"], 0))
            queued = {"type": "Active", "status": "Unknown", "reason": "Queued"}
            active = {"type": "Active", "status": "True"}
            self.registry.set_status(
                key,
                {
                    "metricsServiceName": f"{meta['name']}-private",
                    "serviceName": meta["name"],
                    "desiredScale": desired,
                    "actualScale": actual,
                    "conditions": [queued if actual < desired else active],
                },
            )

    def min_scale(self, name, namespace="default"):
        """The min-scale annotation of a Revision; None if it has none."""
        annotations = (
            self.registry.store.get(Key(REVISION, namespace, name)).obj["metadata"].get("annotations", {})
        )
        return annotations.get(MIN)

    def ownership(self, name, namespace="default"):
        """The ownership annotations of a Revision."""
        annotations = (
            self.registry.store.get(Key(REVISION, namespace, name)).obj["metadata"].get("annotations", {})
        )
        return {
            key.partition("/")[2]: value for key, value in annotations.items() if "pilotlight.dev/" in key
        }

    async def pool(self, name="pool", target="generate", namespace="default", **spec):
        """Create a WarmPool as a user would, over the API."""
        meta = {"name": name, "namespace": namespace}
        body = {"metadata": meta, "spec": {"target": target, "windows": [OFFICE], **spec}}
        return await self.cluster.create(WARM_POOL, body)

    async def status(self, name="pool", namespace="default"):
        """The status of a pool."""
        return (await self.cluster.get(WARM_POOL, name, namespace)).get("status", {})

    async def condition(self, kind, name="pool", namespace="default"):
        """One condition of a pool."""
        conditions = (await self.status(name, namespace)).get("conditions", [])
        return next((entry for entry in conditions if entry["type"] == kind), None)


class ApiServer:
    """The API server on a free port, in this event loop."""

    def __init__(self, folder: Path, known=KINDS) -> None:
        self.store = Store(folder / "state.db")
        self.store.open(asyncio.get_running_loop())
        self.registry = Registry(self.store, known, {}, lambda: datetime.now(UTC))
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
        self.registry.create(NAMESPACE, "", namespace)
        # With the protocol named, asyncio turns Nagle's algorithm off; without, every answer takes 40 ms.
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        api = Api(
            self.registry,
            token="secret",
            metrics=lambda: "",
            now=lambda: datetime.now(UTC),
            log_path=lambda namespace, name: folder / f"{namespace}-{name}.log",
            address=f"127.0.0.1:{self.port}",
        )
        config = uvicorn.Config(api, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.task = asyncio.create_task(self.server.serve(sockets=[self.socket]))

    async def started(self) -> None:
        async with asyncio.timeout(10):
            while not self.server.started:
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self.server.should_exit = True
        self.server.force_exit = True
        for connection in tuple(self.server.server_state.connections):
            connection.transport.abort()
        await asyncio.wait([self.task], timeout=10)
        self.store.close()


def kubeconfig(folder: Path, port: int, name: str = "kubeconfig") -> Path:
    path = folder / name
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
async def api(tmp_path):
    server = ApiServer(tmp_path)
    await server.started()
    yield server
    await server.stop()


@pytest.fixture
async def cluster(api, tmp_path):
    async with Cluster.from_kubeconfig(kubeconfig(tmp_path, api.port)) as client:
        yield client


@pytest.fixture
def knative(api, cluster):
    return FakeKnative(api.registry, cluster)


@pytest.fixture
def clock():
    return MovableClock(MONDAY + timedelta(hours=12))


@pytest.fixture
def waker(knative):
    return RecordingWaker(knative)


@pytest.fixture
def controller(cluster, clock, waker):
    return make_controller(cluster, clock=clock, waker=waker)
