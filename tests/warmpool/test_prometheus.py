"""Signals and demand from a real Prometheus server."""

import asyncio
from asyncio.subprocess import DEVNULL
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import yaml
from aiohttp import web
from typer.testing import CliRunner

from knative.local.apiserver import certificates
from pilotlight.cli.experiment import app
from tests.warmpool.conftest import make_controller
from tests.warmpool.prometheus import metrics_page, needs_prometheus, prometheus, scraped
from warmpool.adapters.prometheus import Prometheus
from warmpool.adapters.prometheus_api import PrometheusServer
from warmpool.adapters.prometheus_history import read_minutes
from warmpool.adapters.prometheus_signals import PrometheusSignals
from warmpool.controller import Settings
from warmpool.domain.pool import WarmPoolSpec
from warmpool.experiments.minutes import Minute, trace_of_minutes
from warmpool.ports import DemandUnavailableError

METRICS = """
DCGM_FI_DEV_GPU_UTIL{gpu="0",exported_pod="generate-1"} 90
DCGM_FI_DEV_GPU_UTIL{gpu="1",exported_pod="generate-2"} 70
vllm:num_requests_waiting{pod="generate-1"} 12
broken NaN
negative -3
huge +Inf
autoscaler_stable_request_concurrency{namespace_name="default",service_name="generate"} 2
"""


@pytest.fixture
async def page():
    async with metrics_page() as shown:
        shown.text = METRICS
        yield shown


@pytest.fixture
async def server(page, tmp_path, unused_tcp_port):
    async with prometheus(tmp_path / "prometheus", unused_tcp_port, page.url) as url:
        await scraped(url, "DCGM_FI_DEV_GPU_UTIL")
        yield url


@needs_prometheus
async def test_each_query_has_its_own_reading_or_its_own_problem(server):
    expected = {
        'avg(DCGM_FI_DEV_GPU_UTIL{exported_pod=~"generate-.*"})': 80.0,
        "sum(vllm:num_requests_waiting)": 12.0,
        "scalar(max(DCGM_FI_DEV_GPU_UTIL))": 90.0,
        "DCGM_FI_DEV_GPU_UTIL": "results in 2 series, must be one: aggregate with avg, sum or max",
        "absent_metric": "has no result: no such series",
        "sum(": "refuses the query: HTTP 400: invalid parameter",
        "DCGM_FI_DEV_GPU_UTIL[1m]": "results in a matrix, must be one number",
        '"text"': "results in a string, must be one number",
        "broken": "results in nan, must be a number from 0 to 1e+12",
        "negative": "results in -3, must be",
        "huge": "results in inf, must be",
    }
    readings = await PrometheusSignals(PrometheusServer(server)).read(list(expected))

    for query, wanted in expected.items():
        reading = readings[query]
        if isinstance(wanted, float):
            assert (reading.value, reading.problem) == (wanted, "")
        else:
            assert reading.value is None
            assert wanted in reading.problem, reading.problem


@needs_prometheus
async def test_a_signal_moves_the_floor_in_place(server, page, knative, cluster):
    settings = Settings(interval=timedelta(seconds=0.2), gather=timedelta(milliseconds=20))
    source = PrometheusSignals(PrometheusServer(server))
    controller = make_controller(cluster, signals=source, settings=settings)
    knative.service("generate")
    signal = {
        "name": "queue",
        "query": "sum(vllm:num_requests_waiting)",
        "target": {"averageValue": 4},
        "stabilizationWindow": "1s",
    }
    blind = {"name": "blind", "query": "sum(", "target": {"value": 1}}
    await knative.pool(windows=[], signals=[signal, blind])
    stop = asyncio.Event()
    running = asyncio.create_task(controller.run(stop))

    async def floor(wanted):
        async with asyncio.timeout(20):
            while knative.min_scale("generate-00001") != wanted:
                knative.settle()
                await asyncio.sleep(0.05)

    await floor("3")
    page.text = METRICS.replace("} 12", "} 20")
    await floor("5")
    page.text = METRICS.replace("} 12", "} 0")
    await floor(None)
    stop.set()
    await running

    assert "signal blind (Prometheus at" in (await knative.condition("Degraded"))["message"]


@needs_prometheus
async def test_demand_and_the_last_request_are_read_by_knatives_names(server, page):
    source = Prometheus(PrometheusServer(server))
    before = datetime.now(UTC)
    demand = (await source.read(before))["default", "generate"]
    page.text = METRICS.replace('"generate"} 2', '"generate"} 0')
    await scraped(server, "autoscaler_stable_request_concurrency == 0")

    assert demand.concurrency == 2.0
    later = Prometheus(PrometheusServer(server))
    last = (await later.read(datetime.now(UTC)))["default", "generate"].last_active
    # A range query looks at whole steps, the last of which may be a minute ago.
    assert last is None or before - timedelta(minutes=2) < last <= datetime.now(UTC)


async def test_a_token_is_read_at_every_use_and_the_certificate_is_checked(tmp_path):
    certificate = certificates.ensure(tmp_path, ["localhost"])
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        result = {"resultType": "scalar", "result": [0, "5"]}
        return web.json_response({"status": "success", "data": result})

    app = web.Application()
    app.router.add_post("/base/api/v1/query", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0, ssl_context=certificates.context(certificate)).start()
    url = f"https://user:secret@localhost:{runner.addresses[0][1]}/base/"
    token = tmp_path / "token"
    trusting = PrometheusSignals(PrometheusServer(url.replace("user:secret@", ""), token, certificate))
    try:
        missing = (await trusting.read(["q"]))["q"]
        token.write_text("first\n")
        assert (await trusting.read(["q"]))["q"].value == 5.0
        token.write_text("second\n")
        assert (await trusting.read(["q"]))["q"].value == 5.0
        refused = (await PrometheusSignals(PrometheusServer(url)).read(["q"]))["q"]
    finally:
        await runner.cleanup()

    assert f"{token} cannot be read" in missing.problem
    assert seen == ["Bearer first", "Bearer second"]
    assert "does not answer" in refused.problem
    assert "secret" not in refused.problem


async def test_a_token_that_is_missing_is_named_where_demand_is_read(tmp_path):
    source = Prometheus(PrometheusServer("http://localhost:1", tmp_path / "none"))
    with pytest.raises(DemandUnavailableError, match="none cannot be read"):
        await source.read(datetime.now(UTC))


PAST = datetime(2026, 3, 2, tzinfo=UTC)


def past_samples() -> str:
    """Twelve days of one request a minute from 09:00 to 17:00, a counter that begins anew, two names."""
    labels = 'namespace_name="default",service_name="generate",revision_name="generate-1"'
    count, counter, gauge = 5000, [], []
    for index in range(12 * 1440):
        moment = PAST + timedelta(minutes=index)
        busy = 9 <= moment.hour < 17 and moment.weekday() < 5
        count = 0 if index == 4 * 1440 + 600 else count + (2 if busy else 0)
        at = f"{moment.timestamp():.0f}"
        counter.append(f"activator_request_count_total{{{labels}}} {count} {at}")
        gauge.append(f"autoscaler_stable_request_concurrency{{{labels}}} {0.1 if busy else 0} {at}")
    return "\n".join(
        [
            "# TYPE activator_request_count counter",
            *counter,
            "# TYPE autoscaler_stable_request_concurrency gauge",
            *gauge,
            "# EOF",
            "",
        ]
    )


@pytest.fixture
async def archive(page, tmp_path, unused_tcp_port):
    """A Prometheus with a past: its own tool makes blocks of samples in OpenMetrics' format."""
    (tmp_path / "past.txt").write_text(past_samples())
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(tmp_path / "past.txt")]
    folder = tmp_path / "prometheus"
    made = await asyncio.create_subprocess_exec(*command, str(tmp_path / "data"), stdout=DEVNULL)
    assert await made.wait() == 0
    async with prometheus(folder, unused_tcp_port, page.url, data=tmp_path / "data") as url:
        yield url


@needs_prometheus
async def test_the_demand_of_weeks_is_read_by_the_minute(archive):
    minutes = await read_minutes(
        PrometheusServer(archive),
        ("default", "generate"),
        PAST - timedelta(days=2),
        PAST + timedelta(days=12),
    )
    none = await read_minutes(
        PrometheusServer(archive), ("default", "other"), PAST, PAST + timedelta(days=12)
    )
    days = {minute.at.date() for minute in minutes}
    trace = trace_of_minutes([Minute(one.at, one.arrivals, one.concurrency) for one in minutes], "generate")

    assert none == []
    assert len(days) == 10  # the working days of twelve
    assert sum(minute.arrivals for minute in minutes) == 2 * 8 * 60 * 10 - 2  # what a restart swallowed
    assert all(8 <= minute.at.hour < 17 for minute in minutes)
    assert float(np.median(trace.service_s)) == pytest.approx(3.0, rel=0.01)


@needs_prometheus
async def test_a_recommendation_is_made_from_a_prometheus(archive, tmp_path):
    since = datetime.now(UTC) - PAST
    run = CliRunner().invoke
    command = ["recommend", "--prometheus", archive, "--service", "default/generate", "--load-s", "60"]
    command += ["--concurrency", "4", "--last", f"{since.days + 1}d"]
    done = await asyncio.to_thread(run, app, command)

    assert done.exit_code == 0, done.output
    pool = yaml.safe_load(done.stdout)
    assert pool["metadata"] == {"name": "generate", "namespace": "default"}
    assert WarmPoolSpec.parse(pool["spec"])
    assert "judged by the" in done.stderr
