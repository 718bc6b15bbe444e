"""What each policy proposes and why; together the highest floor counts, within the limits."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmpool.adapters.price_file import packaged_prices
from warmpool.domain.cost import ReplicaPrice
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Demand, Hold, Observation
from warmpool.domain.pool import WarmPoolSpec
from warmpool.policy import compose, keep_alive

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OFFICE = {"name": "office-hours", "days": ["Mon-Fri"], "from": "08:00", "to": "19:00", "replicas": 2}
L4 = packaged_prices().replica("nvidia-l4", 1)


def pool(**spec):
    return WarmPoolSpec.parse({"target": "generate", **spec})


def decide(observation, now=NOON, memory=None):
    return compose.decide(memory or compose.initial(), observation, now)[1]


def test_the_highest_proposal_is_the_floor():
    spec = pool(windows=[OFFICE], keepAlive="10m")
    decision = decide(Observation(spec, demand=Demand(3.0, backlog=0), hold=Hold(5, NOON + MINUTE)))
    assert decision.floor == Floor.of(5)
    assert decision.reason == "hold"
    assert decision.until == NOON + MINUTE


def test_every_rule_explains_itself():
    decision = decide(Observation(pool(windows=[OFFICE], keepAlive="auto"), demand=Demand(0.0)))
    assert [ask.policy for ask in decision.proposals] == [
        "hold",
        "schedule",
        "backlog",
        "keep-alive",
        "forecast",
        "signals",
    ]
    assert all(ask.detail.endswith(".") for ask in decision.proposals)


def test_two_hot_and_three_in_standby_are_three_of_which_two_are_hot():
    wide = {"name": "wide", "from": "06:00", "to": "22:00", "replicas": 3, "warmth": "standby"}
    decision = decide(Observation(pool(windows=[OFFICE, wide])))
    assert str(decision.floor) == "2 hot + 1 standby"
    assert decision.floor.replicas == 3


@pytest.mark.parametrize(
    ("limits", "replicas", "reason"),
    [
        ({"max": 1}, 1, "limits/max"),
        ({"min": 3}, 3, "limits/min"),
        ({"min": 2, "max": 2}, 2, "window/office-hours"),
    ],
)
def test_limits_bound_the_floor(limits, replicas, reason):
    decision = decide(Observation(pool(windows=[OFFICE], limits=limits)))
    assert (decision.floor.replicas, decision.reason) == (replicas, reason)


def test_an_exception_closes_the_windows_and_is_the_reason():
    spec = pool(windows=[OFFICE], exceptions=[{"name": "works-outing", "dates": ["2026-11-24"]}])
    decision = decide(Observation(spec))
    assert decision.floor == NOTHING
    assert decision.reason == "exception/works-outing"


@pytest.mark.parametrize(
    ("day", "open_"),
    [
        ("2026-01-06", False),
        ("2026-06-04", False),
        ("2026-10-03", False),
        ("2026-12-24", True),
        ("2026-11-24", True),
    ],
)
def test_holidays_of_bavaria(day, open_):
    spec = pool(
        timeZone="Europe/Berlin",
        windows=[{**OFFICE, "days": ["Mon-Sun"]}],
        exceptions=[{"name": "holidays", "holidays": {"country": "DE", "region": "BY"}}],
    )
    now = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    assert bool(decide(Observation(spec), now).floor.replicas) is open_


def test_a_disabled_pool_holds_nothing_and_forgets_its_state():
    memory, _ = compose.decide(compose.initial(), Observation(pool(windows=[OFFICE])), NOON)
    memory, decision = compose.decide(memory, Observation(pool(windows=[OFFICE], enabled=False)), NOON)
    assert decision.floor == NOTHING
    assert decision.reason == "disabled"
    assert memory == compose.initial()


def test_keep_alive_holds_one_replica_for_the_time_after_the_last_request():
    observed = Observation(pool(keepAlive="10m"), demand=Demand(0.0, NOON - 9 * MINUTE))
    assert decide(observed).floor == Floor.of(1)
    assert decide(observed).until == NOON + MINUTE
    assert decide(observed, NOON + MINUTE).floor == NOTHING


def test_keep_alive_counts_from_now_while_requests_are_in_flight():
    decision = decide(Observation(pool(keepAlive="10m"), demand=Demand(0.5)))
    assert decision.until == NOON + 10 * MINUTE


def test_the_break_even_time_is_the_cold_start_plus_its_penalty_divided_by_the_gpus_price():
    price = ReplicaPrice(Decimal("0.001"), cold_start_penalty=Decimal("0.05"))
    observed = Observation(pool(keepAlive="auto"), cold_start=timedelta(seconds=30), price=price)
    assert keep_alive.break_even(observed) == timedelta(seconds=80)


def test_without_demand_the_last_replica_is_held_for_an_hour_at_most_and_the_reading_is_named():
    spec = pool(keepAlive="10m")
    memory, _ = compose.decide(compose.initial(), Observation(spec, demand=Demand(1.0)), NOON)
    for minutes, floor in ((5, 1), (30, 1), (59, 1), (60, 0), (90, 0)):
        memory, decision = compose.decide(memory, Observation(spec, demand=None), NOON + minutes * MINUTE)
        assert decision.floor.replicas == floor, minutes
        assert decision.missing == ("demand",)


def test_without_demand_no_replica_is_kept_alive_that_was_not_held_before():
    decision = decide(Observation(pool(keepAlive="10m"), demand=None))
    assert decision.floor == NOTHING
    assert decision.missing == ("demand",)


def test_a_backlog_asks_for_enough_replicas_to_take_it_at_once():
    observed = Observation(pool(limits={"max": 8}), demand=Demand(0.0, backlog=90), requests_per_replica=20)
    assert decide(observed).floor == Floor.of(5)
    assert decide(observed).reason == "backlog"


@pytest.mark.parametrize(
    ("backlog", "replicas"), [(0, 0), (1, 1), (100, 1), (101, 2), (-1, 0), (10**12, 10_000)]
)
def test_a_backlog_asks_for_no_negative_and_no_absurd_number_of_replicas(backlog, replicas):
    observed = Observation(pool(), demand=Demand(0.0, backlog=backlog), requests_per_replica=100)
    assert decide(observed).floor == Floor.of(replicas)


def test_an_unreadable_series_is_named_and_the_last_reading_stands_for_ten_minutes():
    spec, unreadable = pool(), "pilotlight_queue_backlog = inf, must be a number"
    state, _ = compose.decide(compose.initial(), Observation(spec, demand=Demand(0.0, backlog=5)), NOON)
    for minutes, floor in ((1, 5), (9, 5), (10, 0)):
        observed = Observation(spec, demand=Demand(0.0, unreadable_backlog=unreadable))
        state, decision = compose.decide(state, observed, NOON + minutes * MINUTE)
        assert decision.floor == Floor.of(floor), minutes
        assert decision.missing == (f"backlog ({unreadable})",)


def test_requests_in_flight_that_cannot_be_read_are_no_demand_reading():
    spec = pool(keepAlive="10m")
    state, _ = compose.decide(compose.initial(), Observation(spec, demand=Demand(1.0)), NOON)
    observed = Observation(spec, demand=Demand(None, unreadable_concurrency="x = nan"))
    _, decision = compose.decide(state, observed, NOON + 30 * MINUTE)
    assert (decision.floor, decision.missing) == (Floor.of(1), ("demand (x = nan)",))


def test_an_unreadable_series_beside_a_readable_one_is_named_and_the_reading_counts():
    demand = Demand(1.0, unreadable_concurrency="x = nan", unreadable_arrivals="y = -1")
    decision = decide(Observation(pool(keepAlive="10m"), demand=demand))
    assert (decision.floor, decision.reason) == (Floor.of(1), "keep-alive")
    assert decision.missing == ("demand (x = nan)", "arrivals (y = -1)")


def test_a_hold_ends_by_itself():
    observed = Observation(pool(), hold=Hold(3, NOON))
    assert decide(observed, NOON - MINUTE).floor == Floor.of(3)
    assert decide(observed, NOON).floor == NOTHING


def test_until_is_when_the_floor_changes_and_not_the_end_of_a_lower_proposal():
    observed = Observation(pool(windows=[OFFICE], keepAlive="10m"), demand=Demand(0.0, NOON - 9 * MINUTE))
    assert decide(observed).until == datetime(2026, 11, 24, 19, tzinfo=UTC)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-3600, 6 * 3600), min_size=1, max_size=30),
    st.sampled_from([None, "auto", "10m"]),
    st.sampled_from([None, 1, 4]),
    st.booleans(),
)
def test_a_decision_does_not_depend_on_how_often_it_was_asked_for(steps, keep_alive, maximum, read):
    """The state only saves work: without it the decision is the same."""
    limits = {"max": maximum} if maximum else {}
    spec = pool(windows=[OFFICE], keepAlive=keep_alive or "1s", limits=limits)
    now, memory, last = NOON, compose.initial(), NOON
    for step in steps:
        now += timedelta(seconds=step)  # a clock may be set back
        observed = Observation(spec, demand=Demand(0.0, min(last, now)) if read else Demand(0.0), price=L4)
        memory, decision = compose.decide(memory, observed, now)
        fresh = decide(observed, now)
        assert decision.floor == fresh.floor
