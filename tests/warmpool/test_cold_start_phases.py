"""The phases of a cold start: read from the replica, kept in the history, shown in the status."""

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import jsonschema
import pytest
from aiohttp import web

from functions.http.app import create_app
from functions.lifecycle import State
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings
from functions.stages.postprocess import build
from knative.client.cluster import Cluster
from knative.client.resources import POD, REVISION, WARM_POOL
from knative.local.apiserver.records import Key
from tests.functions.servers import serving
from tests.warmpool.conftest import OFFICE, kubeconfig, make_controller
from tests.warmpool.test_manifests import SCHEMA
from warmpool.adapters.history import SqliteHistory
from warmpool.adapters.phases import HttpPhases
from warmpool.controller.phase_collector import PhaseCollector
from warmpool.domain.cold_start import ColdStart
from warmpool.explanation import explanation
from warmpool.ports import InMemoryHistory

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SERVICE = ("default", "generate")
PHASES = {"import": 8.125, "weights": 1.25, "init": 1.125, "warmup": 0.5, "device": 0.001}
HOUR = timedelta(hours=1)


def body(phases=PHASES, age=5.0):
    """The readiness response of a Pilotlight stage."""
    known = {"stage": "generate", "state": "hot", "cold_start_seconds": 11.0, "in_flight": 0}
    return json.dumps({**known, "phases": phases, "age_seconds": age})


class Replicas:
    """Pods of a Service with real ports; each answers what a test sets."""

    def __init__(self, registry) -> None:
        self.registry = registry
        self.runners = []
        self.asked = []

    def revision(self):
        """The Revision that they are of, unless it is there already."""
        name, labels = "generate-00000", {"serving.knative.dev/service": "generate"}
        if self.registry.store.get(Key(REVISION, "default", name)) is None:
            pod = {"containers": [{"name": "user-container", "image": "registry.local/x"}]}
            revision = {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "spec": pod}
            self.registry.create(
                REVISION, "default", {**revision, "metadata": {"name": name, "labels": labels}}
            )

    async def add(self, name, text, *, status=200, delay_s=0.0, ready=True, headers=None):
        async def answer(request):
            self.asked.append((name, request.path, request.headers.get("authorization")))
            await asyncio.sleep(delay_s)
            return web.Response(text=text() if callable(text) else text, status=status, headers=headers)

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self.runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.pod(name, runner.addresses[0][1], ready=ready)

    def pod(self, name, port, *, ready=True):
        self.revision()
        meta = {
            "name": name,
            "labels": {
                "serving.knative.dev/service": "generate",
                "serving.knative.dev/revision": "generate-00000",
            },
            "annotations": {"pilotlight.dev/port": str(port)},
        }
        spec = {"containers": [{"name": "user-container", "image": "registry.local/x"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        self.registry.create(POD, "default", pod)
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        self.registry.set_status(Key(POD, "default", name), {"podIP": "127.0.0.1", "conditions": [condition]})


@pytest.fixture
async def replicas(api):
    stand_ins = Replicas(api.registry)
    yield stand_ins
    for runner in stand_ins.runners:
        await runner.cleanup()


async def until(check):
    async with asyncio.timeout(10):
        while not (found := check()):
            await asyncio.sleep(0.005)
    return found


async def test_the_phases_of_the_newest_replica_are_read_without_a_token(replicas, cluster):
    await replicas.add("old", body({"import": 99.0}, age=500.0))
    await replicas.add("new", body())
    await replicas.add("coming", body({"import": 1.0}, age=0.1), ready=False)
    assert await HttpPhases(cluster).phases(SERVICE, HOUR) == PHASES
    assert set(replicas.asked) == {("old", "/healthz/ready", None), ("new", "/healthz/ready", None)}


async def test_a_stage_reports_phases_that_can_be_read(replicas, cluster):
    settings = FunctionSettings()
    replica = ReplicaTracker(process_started=time.time() - 2.0)
    async with serving(create_app(build(settings), settings, replica=replica)) as url:
        await replica.wait_for(State.HOT)
        replicas.pod("real", int(url.rpartition(":")[2]))
        phases = await HttpPhases(cluster).phases(SERVICE, HOUR)
    assert 2.0 <= phases["import"] < 60.0


async def test_a_replica_older_than_the_start_is_not_asked_about_it(replicas, cluster):
    await replicas.add("old", body(age=500.0))
    assert await HttpPhases(cluster).phases(SERVICE, timedelta(seconds=60)) is None


MALFORMED = [
    "ok",
    "",
    "[]",
    "null",
    "[" * 10_000,
    json.dumps({"phases": PHASES}),
    body(phases=None),
    body(phases=[1.0]),
    body(phases={}),
    body(phases={"import": "8 s"}),
    body(phases={"import": True}),
    body(phases={"import": -1.0}),
    body(phases={"import": float("nan")}),
    body(phases={"import": 1e300}),
    body(phases={"": 1.0}),
    body(phases={"x" * 100: 1.0}),
    body(phases={"two\nlines": 1.0}),
    body(phases={str(number): 1.0 for number in range(100)}),
    body(age="young"),
    body(age=-1.0),
    body(age=10**400),
    body() + " " * 1_000_000,
]


async def test_any_other_response_reports_no_phases(replicas, cluster):
    texts = iter(MALFORMED)
    await replicas.add("other", lambda: next(texts))
    for text in MALFORMED:
        assert await HttpPhases(cluster).phases(SERVICE, HOUR) is None, text[:200]
    assert len(replicas.asked) == len(MALFORMED)


async def test_errors_and_timeouts_are_no_phases_and_no_failure(replicas, cluster, tmp_path):
    await replicas.add("broken", body(), status=500)
    await replicas.add("elsewhere", body(), status=302, headers={"location": "/healthz/ready"})
    await replicas.add("silent", body(), delay_s=5.0)
    replicas.pod("gone", 1)
    source = HttpPhases(cluster, timeout_s=0.1)
    assert await source.phases(SERVICE, HOUR) is None
    assert await source.phases(("default", "other"), HOUR) is None
    async with Cluster.from_kubeconfig(kubeconfig(tmp_path, 1, "nowhere")) as nowhere:
        assert await HttpPhases(nowhere).phases(SERVICE, HOUR) is None


async def test_a_malformed_response_does_not_hide_a_valid_one(replicas, cluster):
    await replicas.add("sane", body())
    await replicas.add("other", "ok")
    assert await HttpPhases(cluster).phases(SERVICE, HOUR) == PHASES


def test_phases_survive_a_restart_of_the_history(tmp_path):
    path = tmp_path / "history.db"
    history = SqliteHistory(path)
    for number, seconds in enumerate((2.0, 8.0, 4.0)):
        start = ColdStart(NOW + timedelta(minutes=number), 10.0)
        history.add_cold_start(SERVICE, start)
        taken = {"import": seconds, **({"device": 60.0} if number == 0 else {})}
        history.add_phases(SERVICE, ColdStart(start.started, start.seconds, taken))
    known = history.cold_starts(SERVICE)
    assert known.samples == 3
    # A phase that most starts did not have is not where the time goes.
    assert known.phases == {"import": timedelta(seconds=4)}
    assert history.flush()
    # No close: the process may be killed.
    assert SqliteHistory(path).cold_starts(SERVICE) == known


def test_phases_of_starts_that_no_longer_count_are_dropped(tmp_path):
    path = tmp_path / "history.db"
    history = SqliteHistory(path)
    for number in range(300):
        phases = {"image": 30.0} if number < 100 else {"import": 2.0}
        history.add_cold_start(SERVICE, ColdStart(NOW + timedelta(minutes=number), 5.0, phases))
    assert history.cold_starts(SERVICE).phases == {"import": timedelta(seconds=2)}
    assert history.flush()
    assert SqliteHistory(path).cold_starts(SERVICE) == history.cold_starts(SERVICE)


@pytest.mark.parametrize("told", ["nonsense", "[]", '{"import": "x"}', '{"import": NaN}', None])
def test_an_edited_row_loses_only_its_phases(tmp_path, told):
    path = tmp_path / "history.db"
    history = SqliteHistory(path)
    history.add_cold_start(SERVICE, ColdStart(NOW, 10.0, PHASES))
    history.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE cold_starts SET phases = ?", (told,))
    known = SqliteHistory(path).cold_starts(SERVICE)
    assert (known.p50, known.phases) == (timedelta(seconds=10), {})


def test_an_application_with_many_phase_names_does_not_fill_the_memory():
    history = InMemoryHistory()
    for number in range(100):
        history.add_cold_start(SERVICE, ColdStart(NOW, 5.0, {"import": 1.0, f"made-up-{number}": 1.0}))
    assert history.cold_starts(SERVICE).phases == {"import": timedelta(seconds=1)}
    assert len(history._starts[SERVICE]._phases) <= 16


async def raise_and_wait(knative, controller, clock):
    knative.service("generate")
    await knative.pool(windows=[OFFICE])
    knative.capacity = 0
    await controller.tick()
    knative.settle()
    await controller.tick()
    clock.on(timedelta(seconds=14))
    knative.capacity = 2
    knative.settle()
    await controller.tick()


async def test_the_status_shows_the_phases_of_cold_starts(knative, cluster, clock, replicas, tmp_path):
    history = SqliteHistory(tmp_path / "history.db")
    await replicas.add("new", body())
    controller = make_controller(cluster, clock=clock, history=history, phases=HttpPhases(cluster))
    await raise_and_wait(knative, controller, clock)
    await until(lambda: history.cold_starts(SERVICE).phases)
    clock.on(timedelta(seconds=15))
    await controller.tick()
    pool = await cluster.get(WARM_POOL, "pool", "default")
    told = pool["status"]["coldStart"]
    assert told["samples"] == 1
    assert told["phases"] == {"import": "8.1s", "weights": "1.2s", "init": "1.1s", "warmup": "0.5s"}
    jsonschema.validate(pool["status"], SCHEMA["properties"]["status"])
    assert "Cold start p95 14.0 s of 1 (median import 8.1 s, weights 1.2 s, init 1.1 s)." in explanation(
        pool, clock.now()
    )
    assert len(replicas.asked) == 1


async def test_a_start_without_phases_counts_all_the_same(knative, cluster, clock, replicas):
    history = InMemoryHistory()
    await replicas.add("other", "ok")
    controller = make_controller(cluster, clock=clock, history=history, phases=HttpPhases(cluster))
    await raise_and_wait(knative, controller, clock)
    await until(lambda: replicas.asked)
    clock.on(timedelta(seconds=15))
    report = await controller.tick()
    assert report.errors == []
    assert set((await knative.status())["coldStart"]) == {"p50", "p95", "samples"}


class FaultySource:
    """Raises an exception for the first Service."""

    def __init__(self) -> None:
        self.asked = []

    async def phases(self, service, within):
        self.asked.append((service, within))
        if len(self.asked) == 1:
            raise RuntimeError("a fault")
        return PHASES


async def test_a_fault_with_one_service_does_not_affect_the_next(clock, caplog):
    history, source = InMemoryHistory(), FaultySource()
    collector = PhaseCollector(source, history, clock)
    start = ColdStart(clock.now() - timedelta(seconds=20), 14.0)
    with caplog.at_level(logging.ERROR):
        for service in (("default", "first"), SERVICE):
            history.add_cold_start(service, start)
            collector.enqueue(service, start)
        await until(lambda: history.cold_starts(SERVICE).phases)
    assert history.cold_starts(("default", "first")).phases == {}
    assert "default/first" in caplog.text
    assert source.asked[1][1] == timedelta(seconds=50)
    await collector.close()
