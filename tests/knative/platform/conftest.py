"""A platform per module with clients, and helpers to wait for objects."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import (
    CONFIG_MAP,
    CONFIGURATION,
    NAMESPACE,
    POD,
    REVISION,
    ROUTE,
    SECRET,
    SERVICE,
    WARM_POOL,
    Object,
)
from knative.local.kubelet.process import PLATFORM_VARIABLE
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform

BACKEND = Path(__file__).with_name("backend.py")
AUTOSCALING = "autoscaling.knative.dev"


def service(
    name: str,
    *,
    scale: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
    gpus: int = 0,
    args: Iterable[str] = (),
    container: dict[str, Any] | None = None,
    annotations: dict[str, str] | None = None,
    spec: dict[str, Any] | None = None,
    traffic: list[dict[str, Any]] | None = None,
    revision: str | None = None,
    namespace: str = "default",
) -> Object:
    """A Service that runs the test backend."""
    contained: Object = {
        "image": "example.com/backend",
        "command": ["python", str(BACKEND)],
        "args": list(args),
    }
    if env:
        contained["env"] = [{"name": key, "value": value} for key, value in env.items()]
    if gpus:
        contained["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    contained |= container or {}
    marks = {f"{AUTOSCALING}/{key}": value for key, value in (scale or {}).items()} | (annotations or {})
    meta: Object = {"annotations": marks}
    if revision:
        meta["name"] = revision
    obj: Object = {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"metadata": meta, "spec": {"containers": [contained], **(spec or {})}}},
    }
    if traffic:
        obj["spec"]["traffic"] = traffic
    return obj


def condition(obj: Object, kind: str = "Ready") -> dict[str, Any]:
    """A condition's fields; an empty status while it isn't there."""
    found = (obj.get("status") or {}).get("conditions") or []
    return next((item for item in found if item["type"] == kind), {"type": kind, "status": ""})


async def until(check: Callable[[], Awaitable[Any]], *, timeout_s: float = 60.0, what: str = "") -> Any:
    """Poll until `check` gives something true."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = await check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or check}; last seen: {value}")
        await asyncio.sleep(0.02)


class LocalCluster:
    """A platform, a client for its API and a client for its functions."""

    def __init__(self, platform: Platform, cluster: Cluster, http: aiohttp.ClientSession) -> None:
        self.platform = platform
        self.cluster = cluster
        self.http = http

    async def call(self, name: str, path: str = "/", *, namespace: str = "default") -> tuple[int, Any]:
        """Status and JSON body of a request to a function."""
        url = f"{self.platform.gateway_url}/{namespace}/{name}{path}"
        async with self.http.get(url) as answer:
            return answer.status, await answer.json(content_type=None)

    async def ready(self, name: str, *, timeout_s: float = 60.0) -> Object:
        """The Service once its latest generation is ready."""

        async def check() -> Object | None:
            obj = await self.cluster.get(SERVICE, name, "default")
            observed = (obj.get("status") or {}).get("observedGeneration") == obj["metadata"]["generation"]
            return obj if observed and condition(obj)["status"] == "True" else None

        return await until(check, timeout_s=timeout_s, what=f"Service {name} is ready")

    async def service_condition(self, name: str, status: str, kind: str = "Ready") -> dict[str, Any]:
        """A Service's condition once it has that status."""
        return await self.condition_of(SERVICE, name, status, kind)

    async def revision_condition(self, name: str, status: str, kind: str = "Ready") -> dict[str, Any]:
        """A Revision's condition once it has that status."""
        return await self.condition_of(REVISION, name, status, kind)

    async def condition_of(self, resource, name, status, kind="Ready"):
        async def check():
            try:
                obj = await self.cluster.get(resource, name, "default")
            except NotFound:
                return None
            found = condition(obj, kind)
            return found if found["status"] == status else None

        return await until(check, what=f"{resource.kind} {name} {kind}={status}")

    async def pods(self, revision: str | None = None) -> list[Object]:
        """All pods, or a Revision's, except those being deleted."""
        selector = f"serving.knative.dev/revision={revision}" if revision else None
        found = await self.cluster.list(POD, "default", label_selector=selector)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    async def ready_pods(self, count: int, revision: str | None = None) -> list[Object]:
        """The pods once exactly `count` exist and all are ready."""

        async def check():
            pods = await self.pods(revision)
            ready = [pod for pod in pods if condition(pod)["status"] == "True"]
            return (pods or [True]) if len(pods) == len(ready) == count else None

        try:
            found = await until(check, what=f"{count} pods ready")
        except AssertionError as error:
            error.add_note(f"pods: {[(pod['metadata']['name'], pod['status']) for pod in await self.pods()]}")
            raise
        return [] if found == [True] else found

    async def set_floor(self, revision: str, floor: int | str | None) -> None:
        """Patch min-scale on a Revision."""
        value = None if floor is None else str(floor)
        body = {"metadata": {"annotations": {f"{AUTOSCALING}/min-scale": value}}}
        await self.cluster.patch(REVISION, revision, "default", body)


def processes_of(platform_mark: str) -> list[psutil.Process]:
    """Every process whose environment carries a platform's identity."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(PLATFORM_VARIABLE) == platform_mark
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


class Running:
    """A platform on an event loop and a thread of its own, so that a whole module's tests can share it."""

    def __init__(self, config: PlatformConfig) -> None:
        self.platform = Platform(config)
        self._started = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="platform")
        self._thread.start()
        self._started.wait()
        if self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self.platform.start()
        except BaseException as problem:  # noqa: BLE001  # handed to the thread that waits
            self._problem = problem
            return
        finally:
            self._started.set()
        await self._stop.wait()
        await self.platform.stop()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def platform_config(folder: Path, **options: Any) -> PlatformConfig:
    """How the tests' platforms are set up."""
    common = {"gateway_port": 0, "api_port": 0, "gpus": 2, "crash_backoff_s": 0.2, "stop_grace_s": 2.0}
    return PlatformConfig(folder / "state", **{**common, **options})


@pytest.fixture
def config(tmp_path: Path) -> PlatformConfig:
    """For a test that starts a platform itself."""
    return platform_config(tmp_path)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The module's platform; `PLATFORM` in the module holds options of its own."""
    started = Running(
        platform_config(tmp_path_factory.mktemp("platform"), **getattr(request.module, "PLATFORM", {}))
    )
    yield started
    started.stop()


@pytest.fixture
async def local(running: Running) -> AsyncIterator[LocalCluster]:
    """The module's platform with clients, empty before and after."""
    async with (
        Cluster.from_kubeconfig(running.platform.kubeconfig) as cluster,
        aiohttp.ClientSession() as http,
    ):
        yield LocalCluster(running.platform, cluster, http)
        await clear(cluster)


async def clear(cluster: Cluster) -> None:
    """Delete the objects that tests create, and wait until no replica is left."""
    for namespace in await cluster.list(NAMESPACE):
        name = namespace["metadata"]["name"]
        if name not in ("default", "knative-serving"):
            await cluster.delete(NAMESPACE, name)
    for resource in (SERVICE, ROUTE, CONFIGURATION, WARM_POOL, CONFIG_MAP, SECRET):
        for obj in await cluster.list(resource):
            if obj["metadata"].get("finalizers"):
                body = {"metadata": {"finalizers": None}}
                await cluster.patch(resource, obj["metadata"]["name"], obj["metadata"]["namespace"], body)
            with contextlib.suppress(NotFound):
                await cluster.delete(resource, obj["metadata"]["name"], obj["metadata"]["namespace"])

    async def empty() -> bool:
        for pod in await cluster.list(POD):
            with contextlib.suppress(NotFound):
                await cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])
        return not await cluster.list(POD)

    await until(empty, what="no replica is left")
