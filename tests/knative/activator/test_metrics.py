"""The activator's measurements: busy time, concurrency, metrics."""

import asyncio

import pytest

from knative.local.activator.request_stats import RequestStats
from knative.local.routing import RevisionKey

KEY = RevisionKey("default", "a-00001")


async def test_busy_time_counts_a_replica_once_however_many_requests_it_serves(gateway):
    replica = await gateway.running()
    assert gateway.activator.busy_seconds(KEY) == 0
    asking = [asyncio.create_task(gateway.get("/hold")) for _ in range(5)]
    await gateway.until(lambda: replica.in_flight == 5)
    await asyncio.sleep(0.3)
    assert 0.3 <= gateway.activator.busy_seconds(KEY) < 1.0
    replica.release.set()
    await asyncio.gather(*asking)
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)
    spent = gateway.activator.busy_seconds(KEY)
    await asyncio.sleep(0.1)
    assert gateway.activator.busy_seconds(KEY) == spent


async def test_a_waiting_request_makes_no_replica_busy(gateway):
    gateway.deploy()
    asking = asyncio.create_task(gateway.get())
    await asyncio.sleep(0.2)
    assert gateway.activator.busy_seconds(KEY) == 0
    await gateway.ready(await gateway.replica())
    await asking


async def test_busy_time_is_kept_when_its_replica_is_gone(gateway):
    replica = await gateway.running()
    asking = asyncio.create_task(gateway.get("/sleep?s=0.3"))
    await gateway.until(lambda: replica.in_flight == 1)
    gateway.activator.set_endpoints(KEY, ())
    await asking
    await gateway.until(lambda: gateway.activator.in_flight(KEY, "pod-1") == 0)
    assert gateway.activator.busy_seconds(KEY) >= 0.3


async def test_metrics_have_knatives_names(gateway):
    await gateway.running()
    for _ in range(3):
        await gateway.get()
    await gateway.get("/status?code=204")
    await gateway.until(lambda: 'response_code="204"' in gateway.activator.metrics())
    text = gateway.activator.metrics()
    labels = 'namespace_name="default",response_code="200",response_code_class="2xx",revision_name="a-00001",service_name="a"'
    found = {line.split(" ")[0]: line.split(" ")[1] for line in text.splitlines() if not line.startswith("#")}
    counted = {
        name: value for name, value in found.items() if all(part in name for part in labels.split(","))
    }
    assert next(v for k, v in counted.items() if k.startswith("activator_request_count{")) == "3.0"
    assert next(v for k, v in counted.items() if k.startswith("activator_request_latencies_count")) == "3.0"
    assert any(name.startswith("activator_request_concurrency{") for name in found)


def test_concurrency_is_the_mean_over_time():
    stats = RequestStats()
    assert stats.enter(10.0)
    first = stats.report(KEY, 11.0)
    assert (first.concurrency, first.requests) == (0.0, 0.0)  # reported at once when it came
    assert not stats.enter(11.5)
    stats.leave(11.75)
    second = stats.report(KEY, 12.0)
    assert second.concurrency == pytest.approx(1.25)
    assert second.requests == 1
    stats.leave(12.0)
    assert stats.active
    assert stats.report(KEY, 13.0).concurrency == 0
    assert not stats.active
