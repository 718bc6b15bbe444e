"""Signals of a WarmPool: what each result asks for, what is held without one, and what they never change."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knative.client.errors import Invalid
from knative.client.resources import WARM_POOL
from tests.warmpool.conftest import OFFICE, make_controller
from warmpool.adapters.metrics import MetricsCollector
from warmpool.adapters.price_file import packaged_prices
from warmpool.domain.observation import Demand, Hold, Observation
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.signals import SignalReading
from warmpool.domain.spec_errors import SpecError
from warmpool.explanation import explanation
from warmpool.policy import compose

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
L4 = packaged_prices().replica("nvidia-l4", 1)
CACHE = {"name": "kv-cache", "query": "avg(vllm:kv_cache_usage_perc)", "target": {"value": 0.7}}
QUEUE = {"name": "queue", "query": "sum(vllm:num_requests_waiting)", "target": {"averageValue": 4}}


def pool(*signals, **spec):
    return WarmPoolSpec.parse({"target": "generate", "signals": list(signals), **spec})


class Run:
    """A pool that is decided about every fifteen seconds."""

    def __init__(self, *signals, **spec) -> None:
        self.spec = pool(*signals, **spec)
        self.state = compose.initial()
        self.now = NOON

    def step(self, ready=0, *, after=timedelta(seconds=15), hold=None, spent=0, **values):
        self.now += after
        readings = {
            name.replace("_", "-"): SignalReading(None, "no such series")
            if value is None
            else SignalReading(value)
            for name, value in values.items()
        }
        seen = Observation(
            self.spec, demand=Demand(0.0), signals=readings, ready=ready, price=L4, hold=hold, spent=spent
        )
        self.state, decision = compose.decide(self.state, seen, self.now)
        return decision


def proposal(decision):
    return next(entry for entry in decision.proposals if entry.policy == "signals")


# The examples of the algorithm in the documentation of HorizontalPodAutoscaler, and its edges.
@pytest.mark.parametrize(
    ("signal", "ready", "result", "asked"),
    [
        (CACHE, 2, 1.4, 4),  # twice the target: twice the replicas
        (CACHE, 4, 0.35, 2),  # half of it
        (CACHE, 3, 0.76, 3),  # within 10 %
        (CACHE, 3, 0.64, 3),
        (CACHE, 3, 0.78, 4),  # rounded up
        (CACHE, 3, 0.0, 0),
        (CACHE, 0, 0.9, 0),  # nothing is there to be measured
        (CACHE, 1, 700.0, 5),  # four more at once
        (CACHE, 10, 700.0, 20),  # or twice as many
        ({**CACHE, "tolerance": "50%"}, 2, 1.0, 2),
        (QUEUE, 0, 9.0, 3),  # a total needs no replica that is ready
        (QUEUE, 2, 8.5, 2),
        (QUEUE, 2, 9.0, 3),
        (QUEUE, 5, 0.0, 0),
        (QUEUE, 0, 1e12, 10_000),
    ],
)
def test_a_result_asks_for_the_replicas_that_bring_it_to_its_target(signal, ready, result, asked):
    decision = Run(signal).step(ready, **{signal["name"].replace("-", "_"): result})

    assert decision.floor.replicas == asked
    assert decision.reason == (f"signal/{signal['name']}" if asked else "schedule/none")
    assert proposal(decision).detail.endswith(".")


def test_the_floor_falls_to_the_highest_number_of_the_stabilisation_window():
    run = Run({**QUEUE, "stabilizationWindow": "2m"})
    run.step(3, queue=40.0)

    dip = run.step(10, queue=4.0)
    later = run.step(10, queue=20.0, after=MINUTE)
    last = run.step(10, queue=4.0, after=MINUTE)
    over = run.step(10, queue=4.0, after=2 * MINUTE)

    assert [entry.floor.replicas for entry in (dip, later, last, over)] == [10, 10, 5, 1]
    assert "1 asked for, 10 within the last 2m" in proposal(dip).detail
    assert dip.until == NOON + timedelta(seconds=15) + 2 * MINUTE
    assert Run({**QUEUE, "stabilizationWindow": "0s"}).step(0, queue=4.0).floor.replicas == 1


def test_of_several_signals_the_highest_counts():
    decision = Run(CACHE, QUEUE).step(2, kv_cache=1.4, queue=40.0)

    assert (decision.floor.replicas, decision.reason) == (10, "signal/queue")
    assert proposal(decision).detail == (
        "kv-cache is 1.4, target 0.7, 2 ready: 4 asked for; "
        "queue is 40, target 4 per replica, 2 ready: 10 asked for."
    )


def test_a_signal_without_a_reading_keeps_what_it_asked_for_and_stops_no_other_one():
    run = Run(CACHE, QUEUE)
    run.step(2, kv_cache=1.4, queue=4.0)

    blind = run.step(2, kv_cache=None, queue=40.0)
    quiet = run.step(10, kv_cache=None, queue=0.0, after=10 * MINUTE)
    over = run.step(4, kv_cache=None, queue=0.0, after=timedelta(hours=1))

    assert (blind.floor.replicas, blind.reason) == (10, "signal/queue")
    assert blind.missing == ("signal kv-cache (no such series)",)
    assert (quiet.floor.replicas, quiet.reason) == (4, "signal/kv-cache")
    held = "kv-cache has no reading since 12:00:15: the 4 that it asked for are held for at most 1h"
    assert proposal(quiet).detail.startswith(held)
    assert over.floor.replicas == 0


def test_no_reading_at_all_is_no_zero_and_no_source_says_what_to_do():
    nothing = Run(CACHE, QUEUE).step(2)

    assert proposal(nothing).reason == "signals/no-reading"
    assert "signal queue (the controller has no Prometheus: see --prometheus)" in nothing.missing


def test_a_signal_whose_definition_changes_begins_anew():
    run = Run(QUEUE)
    run.step(2, queue=40.0)
    run.spec = pool({**QUEUE, "target": {"averageValue": 40}})

    assert run.step(2, queue=40.0).floor.replicas == 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.one_of(st.none(), st.floats(0, 50)),
            st.one_of(st.none(), st.floats(0, 50)),
            st.integers(0, 400),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_signals_never_beat_a_window_a_hold_the_limits_or_the_budget(steps):
    limits = {"min": 1, "max": 6}
    windowed = Run(CACHE, QUEUE, windows=[OFFICE], limits=limits)
    held, broke = Run(CACHE, QUEUE), Run(CACHE, QUEUE, limits={"budget": {"amount": 100}})
    for ready, cache, queue, seconds in steps:
        readings = {"kv_cache": cache, "queue": queue, "after": timedelta(seconds=seconds)}
        hold = Hold(5, NOON + timedelta(days=1))
        assert 2 <= windowed.step(ready, **readings).floor.replicas <= 6
        assert held.step(ready, hold=hold, **readings).floor.replicas >= 5
        assert broke.step(ready, spent=100, **readings).floor.replicas == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({**CACHE, "target": {}}, "exactly one of value .* and averageValue"),
        ({**CACHE, "target": {"value": 1, "averageValue": 1}}, "exactly one of value .* and averageValue"),
        ({**CACHE, "target": {"value": 0}}, r"signals\[0\].target.value = 0, must be at least 1e-06"),
        ({**CACHE, "query": " "}, "must have a query in PromQL"),
        ({**CACHE, "query": "x" * 1025}, "must have at most 1024 characters"),
        ({**CACHE, "tolerance": "0%"}, 'must be a share such as "1%" or 0.01'),
        ({**CACHE, "stabilizationWindow": "2h"}, 'stabilizationWindow from "0s" to "1h"'),
        ({"name": "kv-cache", "query": "up"}, r"signals\[0\].target must be given"),
    ],
)
def test_mistakes_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        pool(wrong)


def test_names_are_unique_and_few():
    with pytest.raises(SpecError, match="kv-cache is used more than once"):
        pool(CACHE, CACHE)
    with pytest.raises(SpecError, match="must have at most 8 entries"):
        pool(*({**CACHE, "name": f"s{index}"} for index in range(9)))


@pytest.mark.parametrize(
    "wrong",
    [
        {**CACHE, "target": {}},
        {**CACHE, "target": {"value": 1, "averageValue": 1}},
        {**CACHE, "target": {"value": 0}},
        {**CACHE, "query": ""},
        {**CACHE, "stabilizationWindow": "soon"},
    ],
)
async def test_the_api_refuses_a_wrong_signal_when_it_is_applied(knative, wrong):
    with pytest.raises(Invalid):
        await knative.pool(signals=[wrong])


class Source:
    """Readings that a test decides; it may fail as a whole, or not answer."""

    def __init__(self, **readings) -> None:
        self.readings = readings
        self.asked = []
        self.fault = None

    async def read(self, queries):
        self.asked.append(sorted(queries))
        if self.fault:
            raise self.fault
        return {query: self.readings.get(query, SignalReading(None, "no such series")) for query in queries}


async def test_the_controller_follows_a_signal_and_says_what_is_missing(knative, cluster, clock):
    source = Source(up=SignalReading(8.0))
    controller = make_controller(cluster, clock=clock, signals=source)
    knative.service("generate")
    signals = [{**QUEUE, "query": "up"}, {**CACHE, "query": "absent"}]
    await knative.pool(windows=[], signals=signals)
    await controller.tick()
    knative.settle()
    await controller.tick()
    source.readings["up"] = SignalReading(16.0)
    clock.on(timedelta(seconds=15))
    await controller.tick()

    status = await knative.status()
    assert knative.min_scale("generate-00001") == "4"
    assert (status["floor"], status["reason"]) == (4, "signal/queue")
    assert status["signals"] == [
        {"name": "queue", "value": "16", "replicas": 4},
        {"name": "kv-cache", "replicas": 0, "problem": "no such series"},
    ]
    degraded = await knative.condition("Degraded")
    assert (degraded["status"], degraded["message"]) == (
        "True",
        "no reading of signal kv-cache (no such series)",
    )
    assert source.asked == [["absent", "up"]] * 2  # both pools' queries at once, no oftener than needed
    text = MetricsCollector(controller).render().decode()
    labels = 'namespace="default",pool="pool",signal="{}",target="generate"'
    assert f"pilotlight_warmpool_signal{{{labels.format('queue')}}} 16.0" in text
    assert f"pilotlight_warmpool_signal_readable{{{labels.format('queue')}}} 1.0" in text
    assert f"pilotlight_warmpool_signal_readable{{{labels.format('kv-cache')}}} 0.0" in text
    found = explanation(await cluster.get(WARM_POOL, "pool", "default"), clock.now())
    assert any("queue is 16, target 4 per replica, 2 ready: 4 asked for" in line for line in found)


async def test_a_source_that_fails_stops_no_window(knative, cluster, clock):
    source = Source()
    source.fault = RuntimeError("on fire")
    controller = make_controller(cluster, clock=clock, signals=source)
    knative.service("generate")
    await knative.pool(signals=[QUEUE])
    await controller.tick()

    assert knative.min_scale("generate-00001") == "2"
    assert "on fire" in (await knative.condition("Degraded"))["message"]


async def test_a_source_that_hangs_delays_windows_by_a_second_and_is_named(knative, cluster, clock):
    class Hanging:
        async def read(self, _):
            await asyncio.Event().wait()

    controller = make_controller(cluster, clock=clock, signals=Hanging())
    knative.service("generate")
    await knative.pool(signals=[QUEUE])
    async with asyncio.timeout(5):
        await controller.tick()

    assert knative.min_scale("generate-00001") == "2"
    assert "Prometheus has not answered yet" in (await knative.condition("Degraded"))["message"]
    stop = asyncio.Event()
    stop.set()
    await controller.run(stop)
