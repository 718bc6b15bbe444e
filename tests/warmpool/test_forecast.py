"""The forecast of a WarmPool: what it holds, when it says that it is learning, and what it never does."""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmpool.adapters.price_file import packaged_prices
from warmpool.domain.observation import Demand, Hold, Observation
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.spec_errors import SpecError
from warmpool.policy import compose, forecast

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
READ_EVERY = timedelta(seconds=15)
L4 = packaged_prices().replica("nvidia-l4", 1)


def pool(**spec):
    return WarmPoolSpec.parse({"target": "generate", **spec})


def observation(spec, demand, **more) -> Observation:
    return Observation(spec, cold_start=timedelta(seconds=30), demand=demand, price=L4, **more)


class Run:
    """A pool that is decided about every fifteen seconds."""

    def __init__(self, **spec) -> None:
        self.spec = pool(**spec)
        self.state = compose.initial()
        self.now = NOON
        self.last_active = None

    def step(self, concurrency: float | None, arrivals: float = 0.0, **more):
        if concurrency:
            self.last_active = self.now
        demand = None if concurrency is None else Demand(concurrency, self.last_active, arrivals=arrivals)
        self.state, decision = compose.decide(self.state, observation(self.spec, demand, **more), self.now)
        self.now += READ_EVERY
        return decision

    def busy(self, minutes: float, concurrency: float = 3.0, arrivals: float = 6.0):
        decisions = [self.step(concurrency, arrivals) for _ in range(int(minutes * 4))]
        return decisions[-1]


def proposal(decision):
    return next(entry for entry in decision.proposals if entry.policy == "forecast")


def test_without_a_forecast_nothing_is_proposed():
    decision = Run(windows=[]).busy(5)

    assert proposal(decision).reason == "forecast/off"
    assert decision.floor.replicas == 0


def test_it_says_that_it_learns_and_keeps_the_last_replica_meanwhile():
    run = Run(forecast={"objective": {"coldStartRate": "1%"}})

    first = run.step(2.0, 4.0)
    quiet = run.step(0.0)

    assert proposal(first).reason == proposal(quiet).reason == "forecast/learning"
    assert (first.floor.replicas, quiet.floor.replicas) == (1, 1)
    assert proposal(first).detail.startswith("Learning: 0 of 50 requests seen")


def test_what_demand_brought_is_held_through_a_pause_and_let_go_after_a_long_one():
    run = Run(forecast={"objective": {"coldStartPrice": 1000}})
    for _ in range(10):  # busy for three minutes, quiet for one
        run.busy(3)
        run.busy(1, 0.0, 0.0)

    pause = run.busy(1, 0.0, 0.0)
    later = run.busy(12 * 60, 0.0, 0.0)

    assert pause.floor.replicas == 3
    assert proposal(pause).reason == "forecast"
    assert "for a cold start worth 1000 GPU-seconds" in proposal(pause).detail
    assert later.floor.replicas == 0


def test_told_a_rate_it_holds_only_as_much_as_keeps_it():
    run = Run(forecast={"objective": {"coldStartRate": "5%"}})
    cold = requests = 0
    held = 0
    for _ in range(60):
        for concurrency, steps in ((3.0, 12), (0.0, 4)):
            for _ in range(steps):
                decision = run.step(concurrency, 6.0 if concurrency else 0.0)
                cold += max(0, int(concurrency) - held)
                requests += 6 if concurrency else 0
                held = max(int(concurrency), decision.floor.replicas)

    assert "at most 5 % of the requests cold" in proposal(decision).detail
    assert cold / requests < 0.075


def test_it_never_holds_more_than_demand_has_brought():
    run = Run(forecast={"objective": {"coldStartPrice": 100_000}})
    run.busy(30, concurrency=4.0)

    assert run.busy(5, concurrency=1.0, arrivals=2.0).floor.replicas == 4
    assert max(run.step(1.0, 2.0).floor.replicas for _ in range(40)) == 4


def test_a_dearer_cold_start_is_held_against_for_longer():
    lasted = []
    for price in (0, 300, 20_000):
        run = Run(forecast={"objective": {"coldStartPrice": price}})
        run.busy(30)
        held = 0
        while run.step(0.0).floor.replicas and held < 2000:
            held += 1
        lasted.append(held)

    assert lasted == sorted(lasted)
    assert lasted[0] < lasted[2]


def test_windows_holds_limits_and_the_budget_count_as_ever():
    office = {"name": "office", "from": "08:00", "to": "19:00", "replicas": 5}
    hold = Hold(6, NOON + timedelta(days=1))
    windowed, held = (
        Run(forecast={"objective": {"coldStartRate": "1%"}}, windows=[office]),
        Run(forecast={"objective": {"coldStartRate": "1%"}}),
    )
    limited = Run(forecast={"objective": {"coldStartPrice": 5000}}, limits={"max": 2})
    broke = Run(forecast={"objective": {"coldStartPrice": 5000}}, limits={"budget": {"amount": 1}})
    for run in (windowed, held, limited):
        run.busy(20)

    assert windowed.step(3.0, 6.0).floor.replicas == 5
    assert held.step(3.0, 6.0, hold=hold).floor.replicas == 6
    assert limited.step(3.0, 6.0).floor.replicas == 2
    broke.busy(20)
    assert broke.step(3.0, 6.0, spent=2).floor.replicas == 0


def test_when_demand_cannot_be_read_the_floor_is_held_for_minutes_and_named():
    run = Run(forecast={"objective": {"coldStartRate": "1%"}})
    run.busy(30)

    soon, later = run.step(None), None
    for _ in range(40):
        later = run.step(None)

    assert soon.floor.replicas == 3
    assert "demand" in soon.missing
    assert proposal(later).reason == "forecast/no-reading"
    assert later.floor.replicas == 0


def test_a_step_leaves_the_state_before_as_it_was():
    spec = pool(forecast={"objective": {"coldStartRate": "1%"}})
    state = forecast.initial()
    now = NOON
    for _ in range(100):
        state, _ = forecast.step(state, observation(spec, Demand(3.0, now, arrivals=6.0)), now)
        now += READ_EVERY

    first = forecast.step(state, observation(spec, Demand(0.0, now, arrivals=0.0)), now)[1]
    again = forecast.step(state, observation(spec, Demand(0.0, now, arrivals=0.0)), now)[1]

    assert first == again


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "exactly one of coldStartRate, coldStartPrice and ttftP95"),
        (
            {"coldStartRate": "1%", "coldStartPrice": 1},
            "exactly one of coldStartRate, coldStartPrice and ttftP95",
        ),
        ({"coldStartRate": "0%"}, 'must be a share such as "1%" or 0.01'),
        ({"coldStartRate": "much"}, 'must be a share such as "1%" or 0.01'),
        ({"coldStartPrice": -1}, "must be at least 0"),
        ({"rate": "1%"}, "is not a field"),
        ({"ttftP95": "0s"}, 'ttftP95 from "1s" to "1h"'),
        ({"ttftP95": 2}, "must be a duration"),
        ({"ttftP95": "2s", "coldStartRate": "1%"}, "exactly one of coldStartRate"),
    ],
)
def test_mistakes_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        pool(forecast={"objective": wrong})


def test_the_objective_is_written_back_as_the_kind_takes_it():
    assert pool(forecast={"objective": {"coldStartRate": "2%"}}).to_wire()["forecast"] == {
        "objective": {"coldStartRate": "0.02"}
    }


@pytest.mark.parametrize(
    ("limit", "median", "p95", "rate"),
    [
        (2, 30, 60, 0.05),  # every start is longer
        (30, 30, 30, 1.0),  # none is
        (29, 30, 30, 0.05),
        (30, 30, 60, 0.1),  # half of them
        (60, 30, 60, 1.0),  # one in twenty
        (600, 30, 60, 1.0),
        (2, None, None, 0.05),  # none is measured
    ],
)
def test_a_p95_of_the_ttft_admits_the_cold_starts_that_put_one_request_in_twenty_above_it(
    limit, median, p95, rate
):
    seconds = [None if value is None else timedelta(seconds=value) for value in (limit, median, p95)]

    assert forecast.admissible_rate(*seconds) == pytest.approx(rate)


def test_a_p95_of_the_ttft_is_explained_as_a_rate():
    run = Run(forecast={"objective": {"ttftP95": "30s"}})
    run.busy(20)

    slow = run.step(3.0, 6.0, cold_start_median=timedelta(seconds=30))
    said = proposal(slow).detail

    assert "a p95 TTFT of at most 30s: 0 % of the measured starts take longer" in said
    assert "at most 100 % of the requests may be cold" in said
    assert "5 % of the requests may be cold" in proposal(run.step(3.0, 6.0)).detail


demand_steps = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(0, 20)), st.floats(0, 30), st.integers(1, 150)),
    min_size=1,
    max_size=25,
)
objectives = st.sampled_from(
    [{"coldStartRate": "1%"}, {"coldStartPrice": 5000}, {"coldStartPrice": 0}, {"ttftP95": "2s"}]
)


@settings(max_examples=25, deadline=None)
@given(objectives, demand_steps)
def test_a_forecast_never_beats_a_window_a_hold_or_the_budget(objective, steps):
    office = {"name": "office", "from": "00:00", "to": "24:00", "replicas": 2}
    forecast_of = {"forecast": {"objective": objective}}
    window = Run(**forecast_of, windows=[office], limits={"max": 6})
    alone = Run(**forecast_of, limits={"max": 6, "min": 1})
    hold, broke = Run(**forecast_of), Run(**forecast_of, limits={"budget": {"amount": 10}})
    for concurrency, arrivals, seconds in steps:
        for run in (window, alone, hold, broke):
            run.now += timedelta(seconds=seconds)
        assert 2 <= window.step(concurrency, arrivals).floor.replicas <= 6
        assert 1 <= alone.step(concurrency, arrivals).floor.replicas <= 6
        held = hold.step(concurrency, arrivals, hold=Hold(4, NOON + timedelta(days=2)))
        assert held.floor.replicas >= 4
        assert broke.step(concurrency, arrivals, spent=Decimal(10)).floor.replicas == 0


@settings(max_examples=25, deadline=None)
@given(objectives, demand_steps)
def test_without_enough_history_it_falls_back_to_the_last_replica_and_says_so(objective, steps):
    run = Run(forecast={"objective": objective})
    seen = 0.0
    for concurrency, arrivals, seconds in steps:
        run.now += timedelta(seconds=seconds)
        decision = run.step(concurrency, arrivals)
        seen += arrivals if concurrency is not None else 0.0
        if seen < forecast.LEAST_REQUESTS:
            assert decision.floor.replicas <= 1
            assert proposal(decision).reason in {"forecast/learning", "forecast/no-reading"}


@settings(max_examples=25, deadline=None)
@given(objectives, demand_steps)
def test_it_never_holds_more_than_demand_has_brought_whatever_comes(objective, steps):
    run = Run(forecast={"objective": objective})
    highest = 1.0
    for concurrency, arrivals, seconds in steps:
        run.now += timedelta(seconds=seconds)
        highest = max(highest, concurrency or 0.0)
        assert run.step(concurrency, arrivals).floor.replicas <= math.ceil(highest)
