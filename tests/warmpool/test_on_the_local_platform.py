"""The controller on the local platform, whose replicas are real processes, and the command line."""

import asyncio
import contextlib
from datetime import timedelta

import aiohttp
import pytest
from typer.testing import CliRunner

from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import POD, POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform
from knative.service_token import service_token
from pilotlight.cli.pool import app
from tests.warmpool.conftest import make_controller
from warmpool.adapters.exposition import MetricsPage
from warmpool.adapters.history import SqliteHistory
from warmpool.adapters.phases import HttpPhases
from warmpool.adapters.replicas import HttpWarmthClient
from warmpool.adapters.waker import HttpWaker
from warmpool.controller import Settings
from warmpool.reconcile import ownership

REPLICA = """
import http.server, json, os, time
rest, began = "hot", time.monotonic()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = {"phases": {"import": 0.75, "weights": 0.25}, "age_seconds": time.monotonic() - began}
        bodies = {"/admin/warmth": {"rest": rest}, "/healthz/ready": told}
        body = json.dumps(bodies[self.path]).encode() if self.path in bodies else b"ok"
        allowed = self.path != "/admin/warmth" or self.headers["authorization"] == "Bearer " + os.environ["PILOTLIGHT_ADMIN_TOKEN"]
        self.send_response(200 if allowed else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        global rest
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))["warmth"]
        if wanted != "asleep":
            rest = wanted
        self.send_response(422 if wanted == "asleep" else 202)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
KEY = "the key of this platform"
ALWAYS = {"name": "always", "from": "00:00", "to": "24:00", "replicas": 2}


@pytest.fixture
async def platform(tmp_path):
    config = PlatformConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0, gpus=4, admin_key=KEY)
    async with Platform(config) as running:
        yield running


@pytest.fixture
async def cluster(platform):
    async with Cluster.from_kubeconfig(platform.kubeconfig) as client:
        container = {
            "image": "registry.local/x",
            "command": ["python", "-c", REPLICA],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
        meta = {"name": "generate", "namespace": "default"}
        template = {"metadata": {"annotations": {"autoscaling.knative.dev/window": "6s"}}}
        spec = {"template": {**template, "spec": {"containers": [container]}}}
        await client.create(SERVICE, {"metadata": meta, "spec": spec})
        yield client


@pytest.fixture
async def controller(platform, cluster, tmp_path):
    """Running, as `pilotlight up` runs it."""
    history = SqliteHistory(tmp_path / "history.db")
    running = make_controller(
        cluster,
        history=history,
        demand=MetricsPage(f"{platform.api_url}/metrics"),
        waker=HttpWaker(platform.gateway_url),
        warmth_client=HttpWarmthClient(cluster, KEY),
        phases=HttpPhases(cluster),
        settings=Settings(interval=timedelta(seconds=1), gather=timedelta(milliseconds=20)),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(running.run(stop))
    yield running
    stop.set()
    await asyncio.wait_for(task, 10)
    history.close()


async def until(check, seconds=40):
    """Poll until `check` returns something true; a failure shows what it returned last."""
    last = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                last = await check()
                if last:
                    return last
                await asyncio.sleep(0.05)
    pytest.fail(f"not true within {seconds} s; last: {last!r}")


async def pilotlight(platform, *arguments):
    """`pilotlight pool ...` as a user's terminal would run it, in a thread of this process."""
    command = [*arguments, f"--kubeconfig={platform.kubeconfig}"]
    runner = CliRunner(env={"COLUMNS": "200"})
    done = await asyncio.to_thread(runner.invoke, app, command)
    return done.exit_code, done.stdout, done.exception


async def ready(cluster):
    scale = await cluster.get(POD_AUTOSCALER, "generate-00001", "default")
    return (scale.get("status") or {}).get("actualScale", 0)


async def first_start(cluster):
    async def revision_is_ready():
        service = await cluster.get(SERVICE, "generate", "default")
        conditions = (service.get("status") or {}).get("conditions") or ()
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

    await until(revision_is_ready)


async def test_a_pool_is_raised_held_explained_and_released(platform, cluster, controller):
    await first_start(cluster)
    meta = {"name": "pool", "namespace": "default"}
    await cluster.create(WARM_POOL, {"metadata": meta, "spec": {"target": "generate", "windows": [ALWAYS]}})

    async def replicas(count):
        return await ready(cluster) == count

    await until(lambda: replicas(2))
    code, out, _ = await pilotlight(platform, "hold", "pool", "--replicas", "3", "--for", "10m")
    assert (code, "held at 3" in out) == (0, True)
    await until(lambda: replicas(3))

    async def told():
        status = (await cluster.get(WARM_POOL, "pool", "default")).get("status") or {}
        return (
            status.get("ready") == 3
            and status.get("reason") == "hold"
            and "phases" in status.get("coldStart", {})
        )

    await until(told)
    code, out, _ = await pilotlight(platform, "ls")
    assert "default/pool" in out
    assert "3 hot" in out
    code, out, _ = await pilotlight(platform, "explain", "default/pool")
    assert "Held at 3 by hand until" in out
    assert "window always" in out
    assert "p95" in out
    assert "(median import 0.8 s, weights 0.2 s)" in out
    code, out, _ = await pilotlight(platform, "cost")
    assert "USD" in out
    await pilotlight(platform, "release", "pool")
    await pilotlight(platform, "disable", "pool")

    async def given_back():
        revision = await cluster.get(REVISION, "generate-00001", "default")
        return not [key for key in revision["metadata"]["annotations"] if "min-scale" in key]

    await until(given_back)
    code, _, error = await pilotlight(platform, "show", "nobody")
    assert code == 1
    assert isinstance(error, NotFound)


async def test_the_last_replica_is_kept_after_a_request(platform, cluster, controller):
    await first_start(cluster)
    spec = {"target": "generate", "keepAlive": "30m"}
    await cluster.create(WARM_POOL, {"metadata": {"name": "pool", "namespace": "default"}, "spec": spec})

    async def nothing_held():
        return (await cluster.get(WARM_POOL, "pool", "default")).get("status", {}).get("floor") == 0

    await until(nothing_held)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{platform.gateway_url}/default/generate/") as answer,
    ):
        assert answer.status == 200

    async def kept():
        status = (await cluster.get(WARM_POOL, "pool", "default"))["status"]
        return status["reason"] == "keep-alive" and status["floor"] == 1

    await until(kept)
    revision = await cluster.get(REVISION, "generate-00001", "default")
    assert revision["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "1"


async def resting(cluster):
    """The warmth of each ready replica, sorted."""
    found = []
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {service_token(KEY, 'default', 'generate')}"}
    ) as session:
        for pod in await cluster.list(POD, "default"):
            port = pod["metadata"].get("annotations", {}).get("pilotlight.dev/port")
            if port and any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"]
            ):
                async with session.get(f"http://127.0.0.1:{port}/admin/warmth") as answer:
                    found.append((await answer.json(content_type=None))["rest"])
    return sorted(found)


async def test_replicas_are_ordered_to_the_warmth_of_the_window(platform, cluster, controller):
    await first_start(cluster)
    windows = [{**ALWAYS, "replicas": 1}, {**ALWAYS, "name": "behind", "replicas": 3, "warmth": "standby"}]
    spec = {"target": "generate", "windows": windows}
    await cluster.create(WARM_POOL, {"metadata": {"name": "pool", "namespace": "default"}, "spec": spec})

    async def rests_on(*expected):
        return await resting(cluster) == sorted(expected)

    await until(lambda: rests_on("hot", "standby", "standby"))
    await cluster.patch(
        WARM_POOL, "pool", "default", {"spec": {"windows": [*windows, {**ALWAYS, "name": "more"}]}}
    )
    await until(lambda: rests_on("hot", "hot", "standby"))
    asleep = [{**ALWAYS, "warmth": "asleep"}]
    await cluster.patch(WARM_POOL, "pool", "default", {"spec": {"windows": asleep}})

    async def refused():
        status = (await cluster.get(WARM_POOL, "pool", "default"))["status"]
        degraded = next(entry for entry in status["conditions"] if entry["type"] == "Degraded")
        return "does not go asleep: HTTP 422" in degraded["message"]

    await until(refused)


async def test_a_floor_left_by_a_dead_controller_is_found_and_released(platform, cluster):
    await first_start(cluster)
    body = {
        "metadata": {
            "annotations": {
                "autoscaling.knative.dev/min-scale": "2",
                ownership.POOL: "gone",
                ownership.WRITTEN: "2",
                ownership.USER: "",
                ownership.EXPIRES: "2026-01-01T00:00:00Z",
            }
        }
    }
    await cluster.patch(REVISION, "generate-00001", "default", body)
    code, out, _ = await pilotlight(platform, "release", "--abandoned")
    assert (code, out.strip()) == (0, "default/generate-00001 released")
    revision = await cluster.get(REVISION, "generate-00001", "default")
    assert "autoscaling.knative.dev/min-scale" not in revision["metadata"]["annotations"]


async def test_a_rollout_on_full_gpus_is_not_held_up_by_the_old_floor(platform, cluster, controller):
    await first_start(cluster)
    window = {**ALWAYS, "replicas": platform.config.gpus}
    spec = {"target": "generate", "windows": [window]}
    await cluster.create(WARM_POOL, {"metadata": {"name": "pool", "namespace": "default"}, "spec": spec})

    async def full():
        return await ready(cluster) == platform.config.gpus

    await until(full)
    template = {"metadata": {"annotations": {"example.com/version": "two"}}}
    await cluster.patch(SERVICE, "generate", "default", {"spec": {"template": template}})

    async def moved():
        status = (await cluster.get(SERVICE, "generate", "default"))["status"]
        return status.get("latestReadyRevisionName") == "generate-00002"

    await until(moved, seconds=90)

    async def floor_followed():
        old = await cluster.get(REVISION, "generate-00001", "default")
        new = await cluster.get(REVISION, "generate-00002", "default")
        return (_min_scale(old), _min_scale(new)) == (None, str(platform.config.gpus))

    await until(floor_followed)


def _min_scale(revision):
    return revision["metadata"]["annotations"].get("autoscaling.knative.dev/min-scale")
