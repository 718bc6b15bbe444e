"""Demand is read from a metrics page or a Prometheus, by Knative's names old and new."""

import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web

from tests.warmpool.conftest import MONDAY, make_controller
from warmpool.adapters.bounded_body import BodyTooLargeError, read_body
from warmpool.adapters.exposition import MetricsPage
from warmpool.adapters.prometheus import Prometheus
from warmpool.adapters.prometheus_api import PrometheusServer
from warmpool.ports import DemandUnavailableError

NOW = datetime(2026, 11, 23, 22, tzinfo=UTC)
STEP = timedelta(seconds=15)
SERVICE = ("default", "generate")
OLD = '{namespace_name="default",service_name="generate",revision_name="generate-00001"}'


class Page:
    """A server whose responses a test decides."""

    def __init__(self) -> None:
        self.status = 200
        self.text = ""
        self.raw: bytes | None = None
        """The body of every response, if set."""
        self.series: list[tuple[dict, float]] = []
        self.past: list[tuple[dict, list]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if self.raw is not None:
            return web.Response(body=self.raw, content_type="text/plain", charset="utf-8")
        if request.path.endswith("/query_range"):
            result = [{"metric": labels, "values": values} for labels, values in self.past]
        elif request.path.endswith("/query"):
            result = [{"metric": labels, "value": [0, str(value)]} for labels, value in self.series]
        else:
            return web.Response(status=self.status, text=self.text)
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        if self.status != 200:
            body = {"status": "error", "error": "query processing would load too many samples"}
        return web.Response(status=self.status, text=json.dumps(body), content_type="application/json")


@pytest.fixture
async def page():
    shown = Page()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", shown.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    shown.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield shown
    await runner.cleanup()


async def test_requests_in_flight_are_read_from_a_page(page):
    page.text = f"activator_request_concurrency{OLD} 3\n"
    demand = await MetricsPage(page.url + "/metrics").read(NOW)
    assert demand[SERVICE].concurrency == 3.0
    assert demand[SERVICE].last_active == NOW


async def test_requests_between_two_readings_are_found_in_the_growth_of_the_counter(page):
    source = MetricsPage(page.url + "/metrics")
    count = "activator_request_count_total" + OLD[:-1] + ',response_code="200"}'
    page.text = f"{count} 10\n"
    assert (await source.read(NOW))[SERVICE].last_active is None
    page.text = f"{count} 14\n"
    seen = (await source.read(NOW + STEP))[SERVICE]
    assert (seen.arrivals, seen.last_active) == (4.0, NOW + STEP)
    page.text = f"{count} 1\n"  # the counter began anew
    seen = (await source.read(NOW + 2 * STEP))[SERVICE]
    assert (seen.arrivals, seen.last_active) == (1.0, NOW + 2 * STEP)
    seen = (await source.read(NOW + 3 * STEP))[SERVICE]
    assert (seen.arrivals, seen.last_active) == (0.0, NOW + 2 * STEP)


@pytest.mark.parametrize(
    "labels",
    [
        {
            "__name__": "autoscaler_stable_request_concurrency",
            "namespace_name": "default",
            "service_name": "generate",
        },
        {
            "__name__": "kn_revision_concurrency_stable",
            "k8s_namespace_name": "default",
            "kn_service_name": "generate",
        },
    ],
)
async def test_knatives_names_old_and_new_mean_the_same(page, labels):
    page.series = [({**labels, "revision_name": "a"}, 1.5), ({**labels, "revision_name": "b"}, 0.5)]
    assert (await Prometheus(PrometheusServer(page.url)).read(NOW))[SERVICE].concurrency == 2.0


async def test_the_last_request_before_the_controller_started_is_looked_up(page):
    labels = {
        "__name__": "kn_revision_concurrency_stable",
        "k8s_namespace_name": "default",
        "kn_service_name": "generate",
    }
    page.series = [(labels, 0.0)]
    page.past = [(labels, [[NOW.timestamp() - 600, "1"], [NOW.timestamp() - 300, "2"]])]
    assert (await Prometheus(PrometheusServer(page.url)).read(NOW))[SERVICE].last_active == NOW - timedelta(
        seconds=300
    )


async def test_a_queues_backlog_is_demand(page):
    page.series = [
        ({"__name__": "pilotlight_queue_backlog", "namespace": "default", "service": "generate"}, 7)
    ]
    assert (await Prometheus(PrometheusServer(page.url)).read(NOW))[SERVICE].backlog == 7


@pytest.mark.parametrize(
    ("status", "series", "words"), [(422, [], "too many samples"), (200, [], "is Knative scraped?")]
)
async def test_an_error_of_prometheus_is_passed_on(page, status, series, words):
    page.status, page.series = status, series
    with pytest.raises(DemandUnavailableError, match=words.replace("?", r"\?")):
        await Prometheus(PrometheusServer(page.url)).read(NOW)


async def test_a_page_without_metrics_is_an_error(page):
    page.text = "<html>{not metrics"
    with pytest.raises(DemandUnavailableError, match="is not Prometheus text"):
        await MetricsPage(page.url + "/metrics").read(NOW)


async def test_a_server_that_is_not_there_is_an_error(unused_tcp_port):
    with pytest.raises(DemandUnavailableError, match="does not answer"):
        await Prometheus(PrometheusServer(f"http://127.0.0.1:{unused_tcp_port}")).read(NOW)


BACKLOG = 'pilotlight_queue_backlog{namespace="default",service="generate",queue="jobs"}'


@pytest.mark.parametrize("value", ["+Inf", "-Inf", "NaN", "-1", "1e30", "many"])
async def test_a_value_that_is_no_plausible_number_is_no_reading_of_that_series_alone(page, value):
    other = 'pilotlight_queue_backlog{namespace="default",service="other"} 5'
    page.text = f"{BACKLOG} {value}\nactivator_request_concurrency{OLD} 3\n{other}\n"
    demand = await MetricsPage(page.url + "/metrics").read(NOW)
    read = demand[SERVICE]
    assert (read.backlog, read.concurrency) == (None, 3.0)
    assert read.unreadable_backlog.startswith("pilotlight_queue_backlog = ")
    assert "must be a number from 0 to 1e+12" in read.unreadable_backlog
    assert demand["default", "other"].backlog == 5
    assert demand["default", "other"].unreadable_backlog is None


async def test_the_other_queues_of_a_service_still_count(page):
    second = BACKLOG.replace("jobs", "second")
    page.text = f"{BACKLOG} +Inf\n{second} 7\n"
    read = (await MetricsPage(page.url + "/metrics").read(NOW))[SERVICE]
    assert read.backlog == 7
    assert read.unreadable_backlog == "pilotlight_queue_backlog = inf, must be a number from 0 to 1e+12"


async def test_a_counter_that_cannot_be_read_is_named_and_the_gauge_counts(page):
    page.text = f"activator_request_count_total{OLD} -4\nactivator_request_concurrency{OLD} 3\n"
    read = (await MetricsPage(page.url + "/metrics").read(NOW))[SERVICE]
    assert (read.concurrency, read.unreadable_concurrency) == (3.0, None)
    assert read.unreadable_arrivals == (
        "activator_request_count_total = -4, must be a number from 0 to 1e+12"
    )


async def test_bytes_that_are_not_utf_8_spoil_their_own_series_alone(page):
    spoilt = b'pilotlight_queue_backlog{namespace="\xff",service="x"} 1\n\xff\xfe\n'
    page.raw = spoilt + f"activator_request_concurrency{OLD} 3\n".encode()
    demand = await MetricsPage(page.url + "/metrics").read(NOW)
    assert demand[SERVICE].concurrency == 3.0


@pytest.mark.parametrize(
    "body",
    [
        {"status": "success"},
        {"status": "success", "data": None},
        {"status": "success", "data": {"result": {}}},
        {"status": "success", "data": []},
        [],
        "success",
    ],
)
async def test_a_success_of_prometheus_in_another_shape_is_an_error_with_words(page, body):
    page.raw = json.dumps(body).encode()
    with pytest.raises(DemandUnavailableError, match=r"without a result|not a JSON object"):
        await Prometheus(PrometheusServer(page.url)).read(NOW)


LABELS = {"__name__": "pilotlight_queue_backlog", "namespace": "default", "service": "generate"}


@pytest.mark.parametrize(
    "series",
    [
        {"metric": LABELS, "values": []},
        {"metric": LABELS, "value": [0]},
        {"metric": LABELS, "value": [0, None]},
        {"metric": LABELS, "value": [0, "+Inf"]},
        {"metric": {**LABELS, "namespace": None}, "value": [0, "1"]},
        {"metric": [], "value": [0, "1"]},
        "series",
        None,
    ],
)
async def test_a_series_of_prometheus_in_another_shape_is_no_reading_of_that_series_alone(page, series):
    other = {"metric": {**LABELS, "service": "other"}, "value": [0, "7"]}
    page.raw = json.dumps({"status": "success", "data": {"result": [series, other]}}).encode()
    demand = await Prometheus(PrometheusServer(page.url)).read(NOW)
    assert demand["default", "other"].backlog == 7
    assert SERVICE not in demand or demand[SERVICE].unreadable_backlog


async def test_an_unreadable_backlog_is_in_the_status_and_stops_nothing_else(
    knative, cluster, clock, page, waker
):
    clock.at = MONDAY + timedelta(hours=10)
    for name in ("generate", "other"):
        knative.service(name)
        await knative.pool(name=name, target=name)
    page.text = f"{BACKLOG} +Inf\n"
    controller = make_controller(cluster, clock=clock, demand=MetricsPage(page.url + "/metrics"), waker=waker)
    await controller.tick()
    assert knative.min_scale("generate-00001") == "2"
    assert knative.min_scale("other-00001") == "2"
    degraded = await knative.condition("Degraded", name="generate")
    assert degraded["status"] == "True"
    assert "no reading of backlog (pilotlight_queue_backlog = inf" in degraded["message"]
    assert (await knative.condition("Degraded", name="other"))["status"] == "False"


async def test_a_prometheus_that_goes_away_is_named_and_the_floor_held(knative, cluster, clock, page, waker):
    clock.at = MONDAY + timedelta(hours=22)
    knative.service("generate")
    await knative.pool(windows=[], keepAlive="10m")
    labels = {
        "__name__": "activator_request_concurrency",
        "namespace_name": "default",
        "service_name": "generate",
    }
    page.series = [(labels, 1.0)]
    controller = make_controller(
        cluster, clock=clock, demand=Prometheus(PrometheusServer(page.url)), waker=waker
    )
    await controller.tick()
    assert knative.min_scale("generate-00001") == "1"
    assert (await knative.status())["reason"] == "keep-alive"
    page.status = 503
    clock.on(timedelta(minutes=30))
    await controller.tick()
    assert knative.min_scale("generate-00001") == "1"
    degraded = (await knative.condition("Degraded"))["message"]
    assert "no reading of demand" in degraded
    assert page.url in degraded
    page.status, page.series = 200, [(labels, 0.0)]
    clock.on(timedelta(minutes=11))
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    assert (await knative.condition("Degraded"))["status"] == "False"


async def test_a_backlog_raises_the_floor_and_stands_for_ten_minutes_when_it_cannot_be_read(
    knative, cluster, clock, page, waker
):
    clock.at = MONDAY + timedelta(hours=22)
    knative.service("generate")
    await knative.pool(windows=[])
    controller = make_controller(cluster, clock=clock, demand=MetricsPage(page.url + "/metrics"), waker=waker)

    async def backlog_rule() -> dict:
        rules = (await knative.status())["rules"]
        return next(rule for rule in rules if rule["rule"] == "backlog")

    await controller.tick()
    assert (await backlog_rule())["reason"] == "backlog/none"  # nobody reports one: unknown, not empty
    page.text = 'pilotlight_queue_backlog{namespace="default",service="generate",queue="jobs"} 250\n'
    clock.on(STEP)
    await controller.tick()
    assert knative.min_scale("generate-00001") == "3"  # a replica takes 100 at a time
    assert (await knative.status())["reason"] == "backlog"
    page.status = 503
    clock.on(timedelta(minutes=9))
    await controller.tick()
    assert knative.min_scale("generate-00001") == "3"
    clock.on(timedelta(minutes=2))
    await controller.tick()
    assert knative.min_scale("generate-00001") is None
    page.status = 200
    page.text = page.text.replace(" 250", " 0")
    clock.on(STEP)
    await controller.tick()
    assert (await backlog_rule())["reason"] == "backlog/empty"


async def test_a_body_beyond_the_bound_is_refused_before_it_is_held(page):
    page.raw = b"x" * 100_000
    async with aiohttp.ClientSession() as session, session.get(page.url) as response:
        with pytest.raises(BodyTooLargeError, match="more than 1000 bytes"):
            await read_body(response, limit=1000)
