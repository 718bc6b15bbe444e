"""What the controller promises on any cluster: here on the local platform, on request on a real one.

    PILOTLIGHT_TEST_KUBECONFIG=~/.kube/config pytest tests/warmpool/test_any_cluster.py

needs Knative Serving and the manifests of `knative/manifests/crds` on that cluster, and no other controller there.
`PILOTLIGHT_TEST_CONTROLLER_KUBECONFIG` gives the controller credentials of its own (those of its ServiceAccount,
so that its role is tested too), `PILOTLIGHT_TEST_NAMESPACE` names the namespace (`default`),
`PILOTLIGHT_TEST_IMAGE` an image that listens on $PORT, `PILOTLIGHT_TEST_GATEWAY` where wake-up requests go.
"""

import asyncio
import os
import time
import uuid
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from knative.client.cluster import Cluster
from knative.client.errors import Conflict, Invalid, NotFound
from knative.client.resources import CONFIGURATION, EVENT, POD, POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform
from tests.warmpool.conftest import make_controller
from warmpool.adapters.waker import HttpWaker
from warmpool.controller import Settings
from warmpool.reconcile import ownership

KUBECONFIG = os.environ.get("PILOTLIGHT_TEST_KUBECONFIG")
MIN = "autoscaling.knative.dev/min-scale"
OLDER = "autoscaling.knative.dev/minScale"
ALWAYS = {"name": "always", "from": "00:00", "to": "24:00", "replicas": 2}
REPLICA = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


async def until(check, seconds=60):
    """Poll until `check` returns something true; a failure shows what it returned last."""
    deadline = time.monotonic() + seconds
    while True:
        if found := await check():
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not true within {seconds} s; last: {found!r}")
        await asyncio.sleep(0.02)


class PoolOnCluster:
    """One Service and one pool on a cluster, and what tests wait for."""

    def __init__(self, cluster: Cluster, namespace: str, *, real: bool) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.real = real
        self.name = f"any-{uuid.uuid4().hex[:8]}"
        self.first, self.second = f"{self.name}-00001", f"{self.name}-00002"

    def manifest(self, annotations=None, **env):
        container = {
            "image": os.environ.get("PILOTLIGHT_TEST_IMAGE", "registry.local/x"),
            "env": [{"name": name, "value": value} for name, value in env.items()],
        }
        if not self.real:
            container["command"] = ["python", "-c", REPLICA]
        annotations_ = {"autoscaling.knative.dev/window": "6s", **(annotations or {})}
        template = {"metadata": {"annotations": annotations_}, "spec": {"containers": [container]}}
        meta = {"name": self.name, "namespace": self.namespace}
        return {"metadata": meta, "spec": {"template": template}}

    async def service(self, annotations=None):
        await self.cluster.create(SERVICE, self.manifest(annotations))
        await self.newest_is_ready(self.first)

    async def newest_is_ready(self, revision):
        async def ready():
            obj = await self.cluster.get(SERVICE, self.name, self.namespace)
            return (obj.get("status") or {}).get("latestReadyRevisionName") == revision and obj

        return await until(ready)

    async def pool(self, **spec):
        meta = {"name": self.name, "namespace": self.namespace}
        body = {"metadata": meta, "spec": {"target": self.name, "windows": [ALWAYS], **spec}}
        return await self.cluster.create(WARM_POOL, body)

    async def change(self, **spec):
        await self.cluster.patch(WARM_POOL, self.name, self.namespace, {"spec": spec})

    async def annotations(self, revision=None, kind=REVISION):
        obj = await self.cluster.get(kind, revision or self.first, self.namespace)
        return obj["metadata"].get("annotations") or {}

    async def floor_is(self, number, revision=None):
        async def there():
            found = await self.annotations(revision)
            return found.get(MIN) == (None if number is None else str(number)) and (found or True)

        return await until(there)

    async def status_is(self, **wanted):
        async def said():
            obj = await self.cluster.get(WARM_POOL, self.name, self.namespace)
            status = obj.get("status") or {}
            return all(status.get(key) == value for key, value in wanted.items()) and status

        return await until(said)

    async def condition_is(self, kind, reason):
        async def said():
            status = (await self.cluster.get(WARM_POOL, self.name, self.namespace)).get("status") or {}
            found = next((c for c in status.get("conditions") or () if c["type"] == kind), {})
            return found.get("reason") == reason and found

        return await until(said)

    async def pods(self):
        selector = f"serving.knative.dev/service={self.name}"
        found = await self.cluster.list(POD, self.namespace, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def gone(self, kind, name):
        async def there_is_none():
            try:
                await self.cluster.get(kind, name, self.namespace)
            except NotFound:
                return True
            return False

        await until(there_is_none)

    async def clean(self):
        for kind in (WARM_POOL, SERVICE):
            with suppress(NotFound):
                await self.cluster.delete(kind, self.name, self.namespace)


@pytest.fixture
async def kubeconfigs(tmp_path):
    """Of the test and of the controller."""
    if KUBECONFIG:
        yield (
            Path(KUBECONFIG).expanduser(),
            Path(os.environ.get("PILOTLIGHT_TEST_CONTROLLER_KUBECONFIG", KUBECONFIG)),
        )
        return
    config = PlatformConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0, gpus=4)
    async with Platform(config) as running:
        yield running.kubeconfig, running.kubeconfig


@pytest.fixture
async def target(kubeconfigs):
    async with Cluster.from_kubeconfig(kubeconfigs[0]) as cluster:
        namespace = os.environ.get("PILOTLIGHT_TEST_NAMESPACE", "default") if KUBECONFIG else "default"
        target = PoolOnCluster(cluster, namespace, real=bool(KUBECONFIG))
        yield target
        await target.clean()


@pytest.fixture
async def start(kubeconfigs, target):
    """Starts controllers with their own credentials."""
    async with AsyncExitStack() as stack:

        async def start_one():
            cluster = await stack.enter_async_context(Cluster.from_kubeconfig(kubeconfigs[1]))
            controller = make_controller(
                cluster,
                namespace=target.namespace,
                waker=HttpWaker(os.environ.get("PILOTLIGHT_TEST_GATEWAY")),
                settings=Settings(interval=timedelta(seconds=1), gather=timedelta(milliseconds=20)),
            )
            stop = asyncio.Event()
            task = asyncio.create_task(controller.run(stop))

            async def end():
                stop.set()
                await asyncio.wait_for(task, 10)

            stack.push_async_callback(end)
            return controller

        yield start_one
        await target.clean()  # while there is somebody who gives floors back
        await target.gone(WARM_POOL, target.name)


async def test_a_floor_moves_in_place_and_is_released(target, start):
    await target.service({MIN: "1"})
    await start()
    replicas = {pod["metadata"]["uid"] for pod in await target.pods()}
    await target.pool()
    written = await target.floor_is(2)
    assert written[ownership.POOL] == target.name
    status = await target.status_is(ready=2, floor=2, reason="window/always")
    assert status["revisions"][0]["via"] == "Revision"
    await target.change(windows=[{**ALWAYS, "replicas": 3}])
    await target.status_is(ready=3)
    await target.change(enabled=False)
    await target.floor_is(1)
    # The replicas that were there before are there still: no floor costs a second load of the model.
    assert replicas <= {pod["metadata"]["uid"] for pod in await target.pods()}
    assert (await target.cluster.get(CONFIGURATION, target.name, target.namespace))["metadata"][
        "generation"
    ] == 1
    await target.gone(REVISION, target.second)

    async def no_trace():
        left = [*await target.annotations(), *await target.annotations(kind=POD_AUTOSCALER)]
        return not [key for key in left if "pilotlight" in key]

    await until(no_trace)
    told = await target.cluster.list(EVENT, target.namespace)
    assert "FloorChanged" in [e["reason"] for e in told if e["involvedObject"]["name"] == target.name]


async def test_deleting_the_pool_releases_the_floor_first(target, start):
    await target.service()
    await start()
    await target.pool()
    await target.floor_is(2)
    await target.cluster.delete(WARM_POOL, target.name, target.namespace)
    await target.gone(WARM_POOL, target.name)
    assert not [key for key in await target.annotations() if key == MIN or "pilotlight" in key]


async def test_a_users_higher_min_scale_is_left_alone_in_both_spellings(target, start):
    await target.service({OLDER: "3"})
    await start()
    await target.pool()
    await target.status_is(ready=3, floor=2)
    assert not [key for key in await target.annotations() if key == MIN or "pilotlight" in key]


async def test_a_new_revision_gets_the_floor_and_the_old_one_loses_it(target, start):
    await target.service()
    await start()
    await target.pool()
    await target.status_is(ready=2)
    template = target.manifest(VERSION="two")["spec"]
    await target.cluster.patch(SERVICE, target.name, target.namespace, {"spec": template})
    await target.newest_is_ready(target.second)
    await target.floor_is(2, target.second)
    await target.floor_is(None, target.first)


async def test_the_floor_follows_traffic_by_percent_and_tag(target, start):
    await target.service()
    template = target.manifest(VERSION="two")["spec"]
    await target.cluster.patch(SERVICE, target.name, target.namespace, {"spec": template})
    await target.newest_is_ready(target.second)
    split = [
        {"revisionName": target.first, "percent": 75},
        {"revisionName": target.second, "percent": 25, "tag": "canary"},
    ]
    await target.cluster.patch(SERVICE, target.name, target.namespace, {"spec": {"traffic": split}})
    await start()
    await target.pool(windows=[{**ALWAYS, "replicas": 4}])
    await target.floor_is(3, target.first)
    await target.floor_is(1, target.second)
    preview = [
        {"revisionName": target.first, "percent": 100},
        {"revisionName": target.second, "percent": 0, "tag": "canary"},
    ]
    await target.cluster.patch(SERVICE, target.name, target.namespace, {"spec": {"traffic": preview}})
    await target.floor_is(4, target.first)
    await target.floor_is(None, target.second)


async def test_a_service_that_is_deleted_and_created_again_gets_its_floor_back(target, start):
    await target.service()
    await start()
    await target.pool()
    await target.floor_is(2)
    await target.cluster.delete(SERVICE, target.name, target.namespace)
    await target.condition_is("Ready", "TargetMissing")
    await target.gone(REVISION, target.first)
    await target.service()
    await target.floor_is(2)
    await target.condition_is("Ready", "FloorHeld")


async def test_two_controllers_hold_one_floor_and_write_it_once_each_at_most(target, start):
    await target.service()
    first, second = await start(), await start()
    await target.pool()
    await target.status_is(ready=2)
    await target.condition_is("Ready", "FloorHeld")
    written = first.counts.floors + second.counts.floors
    assert 1 <= written <= 2
    found = await target.annotations()
    looks = first.counts.reconciles + second.counts.reconciles
    # Whatever wakes them, they agree: the hold asks for no more than the window does.
    until_when = {ownership.HOLD_REPLICAS: "2", ownership.HOLD_UNTIL: "2100-01-01T00:00:00Z"}
    body = {"metadata": {"annotations": until_when}}
    await target.cluster.patch(WARM_POOL, target.name, target.namespace, body)

    async def looked_again():
        return first.counts.reconciles + second.counts.reconciles >= looks + 2

    await until(looked_again)
    assert {key: (await target.annotations())[key] for key in (MIN, ownership.POOL, ownership.WRITTEN)} == {
        key: found[key] for key in (MIN, ownership.POOL, ownership.WRITTEN)
    }


async def test_a_stale_write_is_refused_and_a_misspelled_field_too(target):
    await target.service()
    stale = {"metadata": {"resourceVersion": "1", "annotations": {MIN: "1"}}}
    with pytest.raises(Conflict):
        await target.cluster.patch(REVISION, target.first, target.namespace, stale)
    with pytest.raises(Invalid):
        await target.pool(windws=[ALWAYS])
    with pytest.raises(Invalid):
        await target.cluster.patch(
            REVISION, target.first, target.namespace, {"metadata": {"annotations": {MIN: "-1"}}}
        )


CRON = {"name": "cron", "cron": "0 8 * * 1-5", "duration": "2h", "replicas": 1}
SPAN = {"start": "2026-12-04T20:00", "end": "2026-12-08T07:00"}
VALID = [
    {"windows": [CRON]},
    {"windows": [{**ALWAYS, "days": ["Mon-Fri", "Sun"]}]},
    {"windows": [{**ALWAYS, "dates": ["2026-12-09", "2026-12-24/2027-01-01", "12-24", "12-31/01-01"]}]},
    {"windows": [{"name": "x", "replicas": 1, **SPAN}]},
    {
        "exceptions": [
            {"name": "x", **SPAN},
            {"name": "y", "dates": ["12-24"], "from": "20:00", "to": "07:00"},
        ]
    },
    {"windows": [], "keepAlive": "auto", "leadTime": "90s"},
    {"exceptions": [{"name": "x", "dates": ["2026-12-24/2027-01-01"], "replicas": 1}]},
    {
        "exceptions": [
            {"name": "x", "holidays": {"country": "DE", "region": "BY"}, "from": "09:00"} | {"to": "10:00"}
        ]
    },
    {"limits": {"min": 1, "max": 2, "budget": {"amount": 12.5, "currency": "EUR", "period": "day"}}},
]
WRONG = {
    "cron without duration": {"windows": [{k: v for k, v in CRON.items() if k != "duration"}]},
    "from without to": {"windows": [{k: v for k, v in ALWAYS.items() if k != "to"}]},
    "neither": {"windows": [{"name": "x", "replicas": 1}]},
    "both": {"windows": [{**ALWAYS, **CRON}]},
    "dates and days": {"windows": [{**ALWAYS, "dates": ["12-24"], "days": ["Mon"]}]},
    "a span with dates": {"windows": [{"name": "x", "replicas": 1, "dates": ["12-24"], **SPAN}]},
    "a span without end": {"windows": [{"name": "x", "replicas": 1, "start": SPAN["start"]}]},
    "a span that ends first": {
        "windows": [{"name": "x", "replicas": 1, "start": SPAN["end"], "end": SPAN["start"]}]
    },
    "a date that is none": {"windows": [{**ALWAYS, "dates": ["13-24"]}]},
    "an exception of days and a span": {"exceptions": [{"name": "x", "dates": ["12-24"], **SPAN}]},
    "an exception of no time": {
        "exceptions": [{"name": "x", "dates": ["12-24"], "from": "20:00", "to": "20:00"}]
    },
    "a country by another code": {"exceptions": [{"name": "x", "holidays": {"country": "UK"}}]},
    "cron with days": {"windows": [{**CRON, "days": ["Mon"]}]},
    "an empty window": {"windows": [{**ALWAYS, "to": "00:00"}]},
    "two of one name": {"windows": [ALWAYS, ALWAYS]},
    "an exception of no day": {"exceptions": [{"name": "x"}]},
    "max below min": {"limits": {"min": 3, "max": 2}},
    "replicas": {"windows": [{**ALWAYS, "replicas": 0}]},
    "day": {"windows": [{**ALWAYS, "days": ["Funday"]}]},
    "time": {"windows": [{**ALWAYS, "from": "8:00"}]},
    "warmth": {"windows": [{**ALWAYS, "warmth": "lukewarm"}]},
    "keep-alive": {"keepAlive": "ten minutes"},
    "country": {"exceptions": [{"name": "x", "holidays": {"country": "de"}}]},
    "amount": {"limits": {"budget": {"amount": -1}}},
    "period": {"limits": {"budget": {"amount": 1, "period": "year"}}},
    "target": {"target": "Not_A_Name"},
}


async def test_every_valid_spec_is_accepted(target, start):
    await start()
    for spec in VALID:
        await target.pool(**spec)
        await target.condition_is("Ready", "TargetMissing")
        await target.cluster.delete(WARM_POOL, target.name, target.namespace)
        await target.gone(WARM_POOL, target.name)


async def test_every_invalid_spec_is_refused_or_reported(target, start):
    """The schema refuses it, or else the status reports it."""
    await start()
    for what, spec in WRONG.items():
        try:
            await target.pool(**spec)
        except Invalid:
            continue
        assert not target.real, f"{what} was taken"
        await target.condition_is("Ready", "InvalidSpec")
        await target.cluster.delete(WARM_POOL, target.name, target.namespace)
        await target.gone(WARM_POOL, target.name)
