"""The promise: a cold start is never a delivery failure, retries survive a restart, and a poisoned message reaches
the dead letter after its attempts, at zero replicas too.

A function on the local platform that starts more slowly than the queue's visibility timeout, and is at zero
replicas before every attempt.
"""

import asyncio
import json

import pytest

from knative.client.cluster import Cluster
from knative.client.resources import POD, SERVICE
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform
from tests.triggers.rig import until
from tests.triggers.source_contract import LEASE_S
from triggers.dispatcher import Options

COLD_START_S = 2 * LEASE_S
FUNCTION = f"""
import http.server, json, os, time
time.sleep({COLD_START_S})
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        with open(os.environ["LOG"], "a") as log:
            log.write(json.dumps([self.headers["ce-id"], body, os.getpid(), time.time()]) + "\\n")
        self.send_response(500 if "poison" in body else 200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
async def platform(tmp_path):
    config = PlatformConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0)
    async with Platform(config) as running, Cluster.from_kubeconfig(running.kubeconfig) as cluster:
        container = {
            "image": "registry.local/x",
            "command": ["python", "-c", FUNCTION],
            "env": [{"name": "LOG", "value": str(tmp_path / "calls")}],
        }
        marks = {"autoscaling.knative.dev/window": "6s"}
        template = {"metadata": {"annotations": marks}, "spec": {"containers": [container]}}
        meta = {"name": "function", "namespace": "default"}
        await cluster.create(SERVICE, {"metadata": meta, "spec": {"template": template}})
        yield running, cluster


async def test_cold_starts_retries_and_a_restart_lose_nothing_and_poison_is_dead_lettered(
    rig, platform, tmp_path
):
    running, cluster = platform
    await rig.queues()
    calls = tmp_path / "calls"

    def called() -> list[list]:
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    async def at_zero() -> None:
        async with asyncio.timeout(120):
            while await cluster.list(POD, "default"):
                await asyncio.sleep(0.1)

    def dispatching():
        return rig.dispatching(
            target={"service": "function", "path": "/"},
            retry={"attempts": 3, "backoff": {"initial": "5s"}},
            options=Options(gateway=running.gateway_url, poll_s=1, lease_s=1.5 * LEASE_S),
        )

    await rig.send(b"good", b"poison")
    for attempt in (1, 2, 3):  # each by another dispatcher, which knows nothing of the ones before
        await at_zero()
        async with dispatching():
            await rig.until_settled(
                *(("retried", attempt) if attempt < 3 else ("dead-lettered", 1)), within_s=90
            )
            await rig.until_settled("delivered", 1, within_s=90)
    made = called()
    assert sorted(body for _, body, _, _ in made) == ["good", "poison", "poison", "poison"]
    poison = [(event, process) for event, body, process, _ in made if body == "poison"]
    assert len({event for event, _ in poison}) == 1, "the same event each time"
    assert len({process for _, process in poison}) == 3, "another replica each time: it was at zero before"
    [letter] = await rig.dead_letters(1)
    assert (letter.message.body, letter.attempts) == (b"poison", 3)
    assert await rig.waiting() == 0
    assert rig.metric("pilotlight_trigger_lost_loans_total") in {None, 0}


async def test_a_missing_service_costs_no_attempt(rig, platform):
    running, cluster = platform
    await rig.queues()
    async with rig.dispatching(
        target={"service": "not-yet", "path": "/"},
        retry={"attempts": 1},
        options=Options(gateway=running.gateway_url, poll_s=1, lease_s=LEASE_S),
    ) as dispatcher:
        await rig.send(b"early")
        await until(lambda: dispatcher.health.trouble("target") is not None)
        trouble = dispatcher.health.trouble("target")
        assert trouble is not None
        assert trouble.reason == "Unreachable"
        assert "'not-yet.default.svc.cluster.local'" in trouble.message
        obj = await cluster.get(SERVICE, "function", "default")
        meta = {"name": "not-yet", "namespace": "default"}
        await cluster.create(SERVICE, {"metadata": meta, "spec": {"template": obj["spec"]["template"]}})
        await rig.until_settled("delivered", 1, within_s=90)
    assert rig.settled("dead-lettered") == 0
