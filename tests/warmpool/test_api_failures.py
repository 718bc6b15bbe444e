"""The API is away, refuses, delays and loses requests; controllers die or run twice: the floor ends up right."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import SERVICE, WARM_POOL
from tests.warmpool.conftest import MONDAY, OFFICE, kubeconfig, make_controller
from tests.warmpool.faulty_proxy import FaultyProxy
from warmpool.adapters.clock import SystemClock
from warmpool.controller import Settings
from warmpool.domain.observation import Demand
from warmpool.reconcile import ownership, reconciler

QUICK = Settings(
    interval=timedelta(milliseconds=200),
    gather=timedelta(milliseconds=10),
    retry_first=timedelta(milliseconds=50),
    retry_last=timedelta(milliseconds=200),
)


@pytest.fixture
async def proxy(api):
    faulty = FaultyProxy(api.port)
    await faulty.start()
    yield faulty
    await faulty.stop()


@pytest.fixture
async def through(proxy, tmp_path):
    """A client that goes through the proxy."""
    async with Cluster.from_kubeconfig(kubeconfig(tmp_path, proxy.port, "proxied")) as client:
        yield client


@pytest.fixture
def proxied(through, clock, waker):
    """A controller behind the proxy."""
    return make_controller(through, clock=clock, waker=waker)


async def until(condition, *, seconds=15):
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(controller):
    """Runs the controller's loop as long as the context lasts."""
    stop = asyncio.Event()
    task = asyncio.create_task(controller.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def test_after_ten_minutes_without_an_api_one_pass_restores_the_floor(knative, proxied, proxy, clock):
    knative.service("generate")
    await knative.pool()
    await proxied.tick()
    proxy.go_away()
    clock.at = MONDAY + timedelta(hours=18, minutes=55)
    for _ in range(40):
        with pytest.raises(ClusterError):
            await proxied.tick()
        clock.on(timedelta(seconds=15))
    assert clock.at > MONDAY + timedelta(hours=19)
    proxy.away = False
    await proxied.tick()
    assert knative.min_scale("generate-00001") is None


@pytest.mark.parametrize("status", [409, 500, 503])
async def test_a_refused_write_is_made_in_the_next_pass(knative, proxied, proxy, clock, status):
    knative.service("generate")
    await knative.pool()
    proxy.answers = [("PATCH", status, {})] * 6
    for _ in range(7):
        await proxied.tick()
        clock.on(timedelta(seconds=1))
    assert knative.min_scale("generate-00001") == "2"
    await proxied.tick()
    assert (await knative.condition("Ready"))["status"] != "False"


async def test_no_request_is_sent_before_retry_after_has_passed(knative, proxied, proxy, clock):
    knative.service("generate")
    await knative.pool()
    proxy.answers = [("PATCH", 429, {"Retry-After": "30"})]
    await proxied.tick()
    changed = proxy.changes
    for _ in range(5):
        clock.on(timedelta(seconds=5))
        await proxied.tick()
    assert proxy.changes == changed
    clock.on(timedelta(seconds=6))
    await proxied.tick()
    assert knative.min_scale("generate-00001") == "2"


@pytest.mark.parametrize("wait", ["²", "9" * 5000, "999999999", "Thu, 01 Dec 2050 16:00:00 GMT", "-1", ""])
async def test_a_retry_after_that_is_wrong_stops_the_controller_for_five_minutes_at_most(
    knative, proxied, proxy, clock, wait
):
    knative.service("generate")
    await knative.pool()
    proxy.answers = [("PATCH", 429, {"Retry-After": wait})]
    await proxied.tick()
    clock.on(timedelta(minutes=5, seconds=1))
    await proxied.tick()
    assert knative.min_scale("generate-00001") == "2"


@pytest.mark.parametrize("lose_reply", [False, True])
@pytest.mark.parametrize("change", range(1, 6))
async def test_a_controller_killed_after_any_change_is_completed_by_a_new_one(  # noqa: PLR0917  fixtures
    knative, through, cluster, proxy, clock, change, lose_reply
):
    knative.service("generate", annotations={"autoscaling.knative.dev/min-scale": "1"})
    await knative.pool()
    proxy.cut_after, proxy.lose_reply = change, lose_reply
    dying = make_controller(through, clock=clock)
    for _ in range(3):
        with contextlib.suppress(ClusterError):
            await dying.tick()
    fresh = make_controller(cluster, clock=clock)
    await fresh.tick()
    assert knative.min_scale("generate-00001") == "2"
    clock.at = MONDAY + timedelta(hours=20)
    await make_controller(cluster, clock=clock).tick()
    assert knative.min_scale("generate-00001") == "1"
    assert knative.ownership("generate-00001") == {}


@pytest.mark.parametrize("change", range(1, 4))
async def test_a_controller_killed_during_a_deletion_is_completed_by_a_new_one(  # noqa: PLR0917  fixtures
    knative, through, cluster, proxy, clock, change
):
    knative.service("generate")
    await knative.pool()
    await make_controller(cluster, clock=clock).tick()
    await cluster.delete(WARM_POOL, "pool", "default")
    proxy.cut_after = change
    dying = make_controller(through, clock=clock)
    for _ in range(3):
        with contextlib.suppress(ClusterError):
            await dying.tick()
    fresh = make_controller(cluster, clock=clock)
    await fresh.tick()
    await fresh.tick()
    assert knative.min_scale("generate-00001") is None
    assert await cluster.list(WARM_POOL) == []


async def test_two_controllers_agree_and_then_write_nothing(knative, cluster, through, clock):
    for number in range(5):
        knative.service(f"s{number}")
        await knative.pool(f"p{number}", target=f"s{number}")
    one, two = make_controller(cluster, clock=clock), make_controller(through, clock=clock)
    for _ in range(3):
        await asyncio.gather(one.tick(), two.tick())
        knative.settle()
    assert [knative.min_scale(f"s{n}-00001") for n in range(5)] == ["2"] * 5
    await asyncio.gather(one.tick(), two.tick())
    reports = await asyncio.gather(one.tick(), two.tick())
    assert [report.writes for report in reports] == [0, 0]


class Demands:
    """A source of demand that saw a request at one instant, or never."""

    def __init__(self, last_active):
        self.last_active = last_active

    async def read(self, now):
        assert now.tzinfo is not None
        return {("default", "generate"): Demand(0.0, self.last_active)}


async def test_two_controllers_that_disagree_do_not_overwrite_each_other_forever(
    knative, through, cluster, clock
):
    """One has seen a request, the other has not: the higher floor is held, with few writes."""
    knative.service("generate")
    await knative.pool(windows=[], keepAlive="1h")
    saw = make_controller(cluster, clock=clock, demand=Demands(clock.now()), settings=QUICK)
    blind = make_controller(through, clock=clock, demand=Demands(None), settings=QUICK)
    async with running(saw), running(blind):
        await until(lambda: knative.min_scale("generate-00001") == "1")
        floors = saw.counts.floors + blind.counts.floors
        for _ in range(40):  # ten minutes
            clock.on(timedelta(seconds=15))
            await until(lambda: saw.last_pass == clock.at and blind.last_pass == clock.at)
        assert saw.counts.floors + blind.counts.floors - floors <= 16
        await until(lambda: knative.min_scale("generate-00001") == "1")


async def test_a_service_that_is_deleted_and_created_again_gets_its_floor_back(knative, controller, cluster):
    knative.service("generate")
    await knative.pool()
    await controller.tick()
    for resource, name in (
        ("Revision", "generate-00001"),
        ("PodAutoscaler", "generate-00001"),
        ("Service", "generate"),
    ):
        knative.registry.delete(knative.key(resource, name))
    await controller.tick()
    assert (await knative.condition("Ready"))["reason"] == "TargetMissing"
    knative.service("generate")
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"


async def test_the_loop_survives_an_api_that_is_away_now_and_then(knative, through, proxy, clock):
    knative.service("generate")
    proxy.go_away()
    controller = make_controller(through, clock=clock, settings=QUICK)
    async with running(controller):
        await until(lambda: proxy.requests > 1)
        proxy.away = False
        await until(lambda: controller.synced)
        await knative.pool()
        await until(lambda: knative.min_scale("generate-00001") == "2")
        proxy.go_away()
        clock.at = MONDAY + timedelta(hours=20)
        await asyncio.sleep(0)
        seen = proxy.requests
        await until(lambda: proxy.requests > seen + 3)
        proxy.away = False
        await until(lambda: knative.min_scale("generate-00001") is None)


async def test_a_watch_that_is_cut_off_misses_nothing(knative, through, proxy, clock, cluster):
    knative.service("generate")
    await knative.pool()
    controller = make_controller(through, clock=clock, settings=QUICK)
    async with running(controller):
        await until(lambda: knative.min_scale("generate-00001") == "2")
        proxy.drop_watches()
        body = {"spec": {"windows": [{**OFFICE, "replicas": 3}]}}
        await cluster.patch(WARM_POOL, "pool", "default", body)
        await until(lambda: knative.min_scale("generate-00001") == "3")


async def test_slow_responses_only_delay_floors(knative, through, proxy, clock):
    for number in range(4):
        knative.service(f"s{number}")
        await knative.pool(f"p{number}", target=f"s{number}")
    proxy.delay_s = 0.2
    await make_controller(through, clock=clock).tick()
    assert [knative.min_scale(f"s{n}-00001") for n in range(4)] == ["2"] * 4


async def test_one_invalid_pool_among_hundreds_affects_no_other(knative, controller, cluster):
    for number in range(300):
        knative.service(f"s{number}")
        await knative.pool(f"p{number}", target=f"s{number}")
    await cluster.patch(WARM_POOL, "p150", "default", {"spec": {"timeZone": "Nowhere"}})
    report = await controller.tick()
    assert report.errors == []
    held = [number for number in range(300) if knative.min_scale(f"s{number}-00001") == "2"]
    assert held == [number for number in range(300) if number != 150]
    assert (await knative.condition("Ready", "p150"))["reason"] == "InvalidSpec"
    assert await cluster.list(SERVICE)


HOSTILE = {
    "digits that int() refuses": {ownership.HOLD_REPLICAS: "²", ownership.HOLD_UNTIL: "2030-01-01T00:00:00Z"},
    "a number of 5,000 digits": {
        ownership.HOLD_REPLICAS: "9" * 5000,
        ownership.HOLD_UNTIL: "2030-01-01T00:00:00Z",
    },
    "an instant before all instants": {
        ownership.HOLD_REPLICAS: "1",
        ownership.HOLD_UNTIL: "0001-01-01T00:00:00+23:59",
    },
}


@pytest.mark.parametrize("annotations", HOSTILE.values(), ids=HOSTILE)
async def test_no_annotation_of_one_pool_affects_another(knative, cluster, clock, annotations):
    knative.service("generate")
    knative.service("other")
    await knative.pool("evil", target="other")
    await cluster.patch(WARM_POOL, "evil", "default", {"metadata": {"annotations": annotations}})
    await knative.pool()
    controller = make_controller(cluster, clock=clock, settings=QUICK)  # a pool that was there before it
    async with running(controller):
        await until(lambda: knative.min_scale("generate-00001") == "2")
        assert knative.min_scale("other-00001") == "2"
        await cluster.patch(WARM_POOL, "pool", "default", {"spec": {"windows": [{**OFFICE, "replicas": 3}]}})
        await until(lambda: knative.min_scale("generate-00001") == "3")


async def test_malformed_annotations_end_neither_watches_nor_resyncs(knative, cluster, clock):
    knative.service("generate")
    await knative.pool("evil", target="nothing")
    settings = replace(QUICK, resync=timedelta(milliseconds=300))
    controller = make_controller(cluster, clock=SystemClock(), settings=settings)
    async with running(controller):
        await until(lambda: controller.synced)
        for annotations in HOSTILE.values():
            body = {"metadata": {"annotations": annotations}}
            await cluster.patch(WARM_POOL, "evil", "default", body)
        await knative.pool(windows=[{**OFFICE, "from": "00:00", "to": "24:00", "days": ["Mon-Sun"]}])
        await until(lambda: knative.min_scale("generate-00001") == "2")
        watches = {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("watch ")}
        assert len(watches) == 4
        seen = controller.last_pass
        await until(lambda: controller.last_pass > seen + timedelta(seconds=1))


GARBAGE = {
    "an object without metadata": b'{"type": "ADDED", "object": {}}\n',
    "metadata that is a list": b'{"type": "MODIFIED", "object": {"metadata": []}}\n',
    "no JSON": b"<html>\n",
    "a list": b"[1, 2]\n",
    "a pool whose annotations are a text": (
        b'{"type": "ADDED", "object": {"metadata": {"name": "x", "namespace": "default",'
        b' "resourceVersion": "1", "annotations": "x"}, "spec": {"target": "s"}}}\n'
    ),
}


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE)
async def test_a_watch_that_fails_for_any_reason_is_restarted(  # noqa: PLR0917  fixtures
    knative, through, proxy, clock, cluster, line
):
    knative.service("generate")
    await knative.pool()
    controller = make_controller(through, clock=clock, settings=QUICK)
    async with running(controller):
        await until(lambda: knative.min_scale("generate-00001") == "2")
        proxy.watch_line = line
        proxy.drop_watches()
        await until(lambda: proxy.watch_line is None)
        await cluster.patch(WARM_POOL, "pool", "default", {"spec": {"windows": [{**OFFICE, "replicas": 3}]}})
        await until(lambda: knative.min_scale("generate-00001") == "3")


async def test_a_fault_in_one_pools_reconciliation_is_in_its_status_and_in_no_other(
    knative, controller, cluster, monkeypatch
):
    """A fault of the controller's own, which no input is known to cause."""
    whole = reconciler.reconcile

    def faulty(snapshot, state, now):
        if snapshot.pool.key[1] == "bad":
            raise ZeroDivisionError("a fault")
        return whole(snapshot, state, now)

    monkeypatch.setattr(reconciler, "reconcile", faulty)
    knative.service("generate")
    knative.service("other")
    await knative.pool("bad", target="other")
    await knative.pool()
    report = await controller.tick()
    assert knative.min_scale("generate-00001") == "2"
    assert "a fault" in report.errors[0]
    ready = await knative.condition("Ready", "bad")
    assert (ready["status"], ready["reason"]) == ("False", "InternalError")


@pytest.mark.parametrize("refused", ["revisions", "warmpools", "both"])
async def test_a_refused_floor_is_in_the_status_with_the_apis_message(
    knative, through, proxy, clock, refused
):
    """Rights taken away, or a webhook that is down: the status of a new pool shows it, until it is over."""
    knative.service("generate")
    await knative.pool()
    controller = make_controller(through, clock=clock)
    proxy.refuse = {"revisions": "/revisions/", "warmpools": "/warmpools/pool", "both": "/"}[refused]
    proxy.allow = "/status" if refused != "revisions" else None
    await controller.tick()
    ready = await knative.condition("Ready")
    assert (ready["status"], ready["reason"], ready["observedGeneration"]) == ("False", "WriteFailed", 1)
    assert "admission webhook is down" in ready["message"]
    proxy.refuse = None
    clock.on(timedelta(seconds=31))
    await controller.tick()
    knative.settle()
    await controller.tick()
    assert (await knative.condition("Ready"))["reason"] == "FloorHeld"


async def test_a_held_floor_that_can_no_longer_be_written_is_reported(
    knative, through, proxy, clock, cluster
):
    knative.service("generate")
    await knative.pool()
    controller = make_controller(through, clock=clock)
    await controller.tick()
    proxy.refuse = "/revisions/"
    await cluster.patch(WARM_POOL, "pool", "default", {"spec": {"windows": [{**OFFICE, "replicas": 3}]}})
    await controller.tick()
    ready = await knative.condition("Ready")
    assert (ready["reason"], ready["observedGeneration"]) == ("WriteFailed", 2)
    status = await knative.status()
    assert status["floor"] == 3
    assert knative.min_scale("generate-00001") == "2"


async def test_a_revision_that_cannot_be_written_stops_no_other_of_its_pool(knative, proxied, proxy):
    knative.service("generate", {"generate-00001": 50, "generate-00002": 50})
    await knative.pool(windows=[{**OFFICE, "replicas": 4}])
    proxy.refuse = "/revisions/generate-00001"
    await proxied.tick()
    assert knative.min_scale("generate-00002") == "2"
    ready = await knative.condition("Ready")
    assert (ready["reason"], "webhook is down" in ready["message"]) == ("WriteFailed", True)
