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

from knative.client.cluster import (
    CONFIGURATION,
    EVENT,
    POD,
    POD_AUTOSCALER,
    REVISION,
    SERVICE,
    WARM_POOL,
    Cluster,
    Conflict,
    Invalid,
    NotFound,
)
from knative.local.platform.platform import Platform, PlatformConfig
from warmpool.adapters.waker import HttpWaker
from warmpool.controller import Controller, Settings
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
    """Poll until `check` gives something true; what it gave last tells what was missing."""
    deadline = time.monotonic() + seconds
    while True:
        if found := await check():
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"it did not come to be within {seconds} s; last: {found!r}")
        await asyncio.sleep(0.02)


class World:
    """One Service and one pool on a cluster, and words to ask about them."""

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
        marks_ = {"autoscaling.knative.dev/window": "6s", **(annotations or {})}
        template = {"metadata": {"annotations": marks_}, "spec": {"containers": [container]}}
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
    """Of the tester and of the controller."""
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
async def world(kubeconfigs):
    async with Cluster.from_kubeconfig(kubeconfigs[0]) as cluster:
        namespace = os.environ.get("PILOTLIGHT_TEST_NAMESPACE", "default") if KUBECONFIG else "default"
        world = World(cluster, namespace, real=bool(KUBECONFIG))
        yield world
        await world.clean()


@pytest.fixture
async def start(kubeconfigs, world):
    """Starts controllers, with the rights that they have."""
    async with AsyncExitStack() as stack:

        async def start_one():
            cluster = await stack.enter_async_context(Cluster.from_kubeconfig(kubeconfigs[1]))
            controller = Controller(
                cluster,
                namespace=world.namespace,
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
        await world.clean()  # while there is somebody who gives floors back
        await world.gone(WARM_POOL, world.name)


async def test_a_floor_moves_in_place_and_is_given_back(world, start):
    await world.service({MIN: "1"})
    await start()
    replicas = {pod["metadata"]["uid"] for pod in await world.pods()}
    await world.pool()
    written = await world.floor_is(2)
    assert written[ownership.POOL] == world.name
    status = await world.status_is(ready=2, floor=2, reason="window/always")
    assert status["revisions"][0]["via"] == "Revision"
    await world.change(windows=[{**ALWAYS, "replicas": 3}])
    await world.status_is(ready=3)
    await world.change(enabled=False)
    await world.floor_is(1)
    # The replicas that were there before are there still: no floor costs a second load of the model.
    assert replicas <= {pod["metadata"]["uid"] for pod in await world.pods()}
    assert (await world.cluster.get(CONFIGURATION, world.name, world.namespace))["metadata"][
        "generation"
    ] == 1
    await world.gone(REVISION, world.second)

    async def no_trace():
        left = [*await world.annotations(), *await world.annotations(kind=POD_AUTOSCALER)]
        return not [key for key in left if "pilotlight" in key]

    await until(no_trace)
    told = await world.cluster.list(EVENT, world.namespace)
    assert "FloorChanged" in [e["reason"] for e in told if e["involvedObject"]["name"] == world.name]


async def test_deleting_the_pool_gives_the_floor_back_first(world, start):
    await world.service()
    await start()
    await world.pool()
    await world.floor_is(2)
    await world.cluster.delete(WARM_POOL, world.name, world.namespace)
    await world.gone(WARM_POOL, world.name)
    assert not [key for key in await world.annotations() if key == MIN or "pilotlight" in key]


async def test_a_users_higher_min_scale_is_left_alone_in_both_spellings(world, start):
    await world.service({OLDER: "3"})
    await start()
    await world.pool()
    await world.status_is(ready=3, floor=2)
    assert not [key for key in await world.annotations() if key == MIN or "pilotlight" in key]


async def test_a_new_revision_gets_the_floor_and_the_old_one_loses_it(world, start):
    await world.service()
    await start()
    await world.pool()
    await world.status_is(ready=2)
    template = world.manifest(VERSION="two")["spec"]
    await world.cluster.patch(SERVICE, world.name, world.namespace, {"spec": template})
    await world.newest_is_ready(world.second)
    await world.floor_is(2, world.second)
    await world.floor_is(None, world.first)


async def test_the_floor_follows_traffic_by_percent_and_tag(world, start):
    await world.service()
    template = world.manifest(VERSION="two")["spec"]
    await world.cluster.patch(SERVICE, world.name, world.namespace, {"spec": template})
    await world.newest_is_ready(world.second)
    split = [
        {"revisionName": world.first, "percent": 75},
        {"revisionName": world.second, "percent": 25, "tag": "canary"},
    ]
    await world.cluster.patch(SERVICE, world.name, world.namespace, {"spec": {"traffic": split}})
    await start()
    await world.pool(windows=[{**ALWAYS, "replicas": 4}])
    await world.floor_is(3, world.first)
    await world.floor_is(1, world.second)
    preview = [
        {"revisionName": world.first, "percent": 100},
        {"revisionName": world.second, "percent": 0, "tag": "canary"},
    ]
    await world.cluster.patch(SERVICE, world.name, world.namespace, {"spec": {"traffic": preview}})
    await world.floor_is(4, world.first)
    await world.floor_is(None, world.second)


async def test_the_service_is_deleted_and_made_again_under_the_pool(world, start):
    await world.service()
    await start()
    await world.pool()
    await world.floor_is(2)
    await world.cluster.delete(SERVICE, world.name, world.namespace)
    await world.condition_is("Ready", "TargetMissing")
    await world.gone(REVISION, world.first)
    await world.service()
    await world.floor_is(2)
    await world.condition_is("Ready", "FloorHeld")


async def test_two_controllers_hold_one_floor_and_write_it_once_each_at_most(world, start):
    await world.service()
    first, second = await start(), await start()
    await world.pool()
    await world.status_is(ready=2)
    await world.condition_is("Ready", "FloorHeld")
    written = first.counts.floors + second.counts.floors
    assert 1 <= written <= 2
    found = await world.annotations()
    looks = first.counts.looks + second.counts.looks
    # Whatever wakes them, they agree: the hold asks for no more than the window does.
    until_when = {ownership.HOLD_REPLICAS: "2", ownership.HOLD_UNTIL: "2100-01-01T00:00:00Z"}
    body = {"metadata": {"annotations": until_when}}
    await world.cluster.patch(WARM_POOL, world.name, world.namespace, body)

    async def looked_again():
        return first.counts.looks + second.counts.looks >= looks + 2

    await until(looked_again)
    assert {key: (await world.annotations())[key] for key in (MIN, ownership.POOL, ownership.WRITTEN)} == {
        key: found[key] for key in (MIN, ownership.POOL, ownership.WRITTEN)
    }


async def test_a_stale_write_is_refused_and_a_misspelled_field_too(world):
    await world.service()
    stale = {"metadata": {"resourceVersion": "1", "annotations": {MIN: "1"}}}
    with pytest.raises(Conflict):
        await world.cluster.patch(REVISION, world.first, world.namespace, stale)
    with pytest.raises(Invalid):
        await world.pool(windws=[ALWAYS])
    with pytest.raises(Invalid):
        await world.cluster.patch(
            REVISION, world.first, world.namespace, {"metadata": {"annotations": {MIN: "-1"}}}
        )


CRON = {"name": "cron", "cron": "0 8 * * 1-5", "duration": "2h", "replicas": 1}
VALID = [
    {"windows": [CRON]},
    {"windows": [{**ALWAYS, "days": ["Mon-Fri", "Sun"]}]},
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


async def test_every_right_spec_is_taken(world, start):
    await start()
    for spec in VALID:
        await world.pool(**spec)
        await world.condition_is("Ready", "TargetMissing")
        await world.cluster.delete(WARM_POOL, world.name, world.namespace)
        await world.gone(WARM_POOL, world.name)


async def test_every_wrong_spec_is_refused_or_said(world, start):
    """The schema refuses; what a server leaves to the owner of the kind (here: CEL rules) the status says."""
    await start()
    for what, spec in WRONG.items():
        try:
            await world.pool(**spec)
        except Invalid:
            continue
        assert not world.real, f"{what} was taken"
        await world.condition_is("Ready", "InvalidSpec")
        await world.cluster.delete(WARM_POOL, world.name, world.namespace)
        await world.gone(WARM_POOL, world.name)
