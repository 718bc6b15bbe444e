"""The forecast of a WarmPool: what it holds, when it says that it is learning, and what it never does."""

from datetime import UTC, datetime, timedelta

import pytest

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
    run = Run(forecast={"coldStartRate": "1%"})

    first = run.step(2.0, 4.0)
    quiet = run.step(0.0)

    assert proposal(first).reason == proposal(quiet).reason == "forecast/learning"
    assert (first.floor.replicas, quiet.floor.replicas) == (1, 1)
    assert proposal(first).detail.startswith("Learning: 0 of 50 requests seen")


def test_what_demand_brought_is_held_through_a_pause_and_let_go_after_a_long_one():
    run = Run(forecast={"coldStartPrice": 1000})
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
    run = Run(forecast={"coldStartRate": "5%"})
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
    run = Run(forecast={"coldStartPrice": 100_000})
    run.busy(30, concurrency=4.0)

    assert run.busy(5, concurrency=1.0, arrivals=2.0).floor.replicas == 4
    assert max(run.step(1.0, 2.0).floor.replicas for _ in range(40)) == 4


def test_a_dearer_cold_start_is_held_against_for_longer():
    lasted = []
    for price in (0, 300, 20_000):
        run = Run(forecast={"coldStartPrice": price})
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
        Run(forecast={"coldStartRate": "1%"}, windows=[office]),
        Run(forecast={"coldStartRate": "1%"}),
    )
    limited = Run(forecast={"coldStartPrice": 5000}, limits={"max": 2})
    broke = Run(forecast={"coldStartPrice": 5000}, limits={"budget": {"amount": 1}})
    for run in (windowed, held, limited):
        run.busy(20)

    assert windowed.step(3.0, 6.0).floor.replicas == 5
    assert held.step(3.0, 6.0, hold=hold).floor.replicas == 6
    assert limited.step(3.0, 6.0).floor.replicas == 2
    broke.busy(20)
    assert broke.step(3.0, 6.0, spent=2).floor.replicas == 0


def test_when_demand_cannot_be_read_the_floor_is_held_for_minutes_and_named():
    run = Run(forecast={"coldStartRate": "1%"})
    run.busy(30)

    soon, later = run.step(None), None
    for _ in range(40):
        later = run.step(None)

    assert soon.floor.replicas == 3
    assert "demand" in soon.missing
    assert proposal(later).reason == "forecast/no-reading"
    assert later.floor.replicas == 0


def test_a_step_leaves_the_state_before_as_it_was():
    spec = pool(forecast={"coldStartRate": "1%"})
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
        ({}, "exactly one of coldStartRate and coldStartPrice"),
        ({"coldStartRate": "1%", "coldStartPrice": 1}, "exactly one of coldStartRate and coldStartPrice"),
        ({"coldStartRate": "0%"}, 'must be a share such as "1%" or 0.01'),
        ({"coldStartRate": "much"}, 'must be a share such as "1%" or 0.01'),
        ({"coldStartPrice": -1}, "must be at least 0"),
        ({"rate": "1%"}, "is not a field"),
    ],
)
def test_mistakes_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        pool(forecast=wrong)


def test_the_objective_is_written_back_as_the_kind_takes_it():
    assert pool(forecast={"coldStartRate": "2%"}).to_wire()["forecast"] == {"coldStartRate": "0.02"}
