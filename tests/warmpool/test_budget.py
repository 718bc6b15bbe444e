"""A budget lowers the floor, the least valuable part first, and is never overspent."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from warmpool.adapters.price_file import packaged_prices
from warmpool.domain.account import Account, AccountReading, RevisionReading
from warmpool.domain.budget_period import budget_period
from warmpool.domain.cost import PriceList
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.observation import Demand, Hold, Observation
from warmpool.domain.pool import WarmPoolSpec
from warmpool.policy import compose

OFFICE = {"name": "office-hours", "days": ["Mon-Fri"], "from": "08:00", "to": "19:00", "replicas": 2}
L4 = packaged_prices().replica("nvidia-l4", 1)
FIRST = datetime(2026, 11, 2, tzinfo=UTC)  # a Monday
STEP = timedelta(minutes=5)


def pool(amount, *, period="month", **spec):
    budget = {"amount": amount, "currency": "USD", "period": period}
    return WarmPoolSpec.parse(
        {"target": "generate", "windows": [OFFICE], "limits": {"budget": budget}, **spec}
    )


def month(spec, price=L4, demand=None):
    """Run the budget's period through, the floor obeyed at once; returns the account and the decisions."""
    since, ends = budget_period(FIRST, spec.limits.budget.period, spec.zone)
    account, memory, now, decisions = Account(since), compose.initial(), since, []
    while now < ends:
        account = account.read(replace(account.last, at=now)) if account.last else account
        observed = Observation(
            spec,
            lead=timedelta(0),
            price=price,
            spent=account.spent,
            demand=demand(now) if demand else Demand(0.0),
        )
        memory, decision = compose.decide(memory, observed, now)
        decisions.append((now, decision))
        revision = RevisionReading(decision.floor, decision.floor.replicas)
        account = replace(
            account, last=AccountReading(now, {"r": revision}, decision.reason, gpus=1, price=price)
        )
        now += STEP
        if demand is None and decision.floor == NOTHING and decision.until:
            now = max(now, min(decision.until, ends))  # nothing happens until then
        if decision.decide_again and decision.decide_again < now:
            now = max(decision.decide_again, decisions[-1][0] + timedelta(seconds=1))
    return account, decisions


# Two L4 for 11 hours on 21 weekdays of November 2026 cost 2 * 11 * 21 * 0.8048 = 371.82.
@pytest.mark.parametrize("amount", [0, 10, 100, 185, 186, 300, 371, 400, 1000])
def test_no_budget_is_ever_overspent(amount):
    account, _ = month(pool(amount))
    assert account.spent <= amount
    assert account.spent == min(account.spent, Decimal(amount))


def test_a_sufficient_budget_changes_nothing():
    account, decisions = month(pool(400))
    assert float(account.spent) == pytest.approx(371.82, abs=0.01)
    assert not any(decision.budget_adjustment for _, decision in decisions)


def test_a_tight_budget_is_nearly_used_up_rather_than_saved():
    account, _ = month(pool(300))
    assert account.spent >= 290


def test_one_replica_all_month_is_preferred_to_two_for_half_of_it():
    _, decisions = month(pool(250))
    open_ = [decision for now, decision in decisions if now.weekday() < 5 and 8 <= now.hour < 19]
    assert all(decision.floor.replicas >= 1 for decision in open_)
    assert any(decision.reason == "budget/replicas" for decision in open_)


def test_keep_alive_goes_before_the_schedule():
    def busy_at_night(now):
        return Demand(1.0 if now.hour < 6 else 0.0)

    # A week of the schedule costs 5 * 2 * 11 * 0.8048 = 88.53, keep-alive at night 7 * 6.2 * 0.8048 = 34.93
    # more.
    plenty, _ = month(pool(1000, keepAlive="10m", period="week"), demand=busy_at_night)
    assert plenty.by_reason["keep-alive"] > 30
    tight, decisions = month(pool(90, keepAlive="10m", period="week"), demand=busy_at_night)
    open_ = [decision for now, decision in decisions if now.weekday() < 5 and 8 <= now.hour < 19]
    assert all(decision.floor == Floor.of(2) for decision in open_)
    assert tight.by_reason.get("keep-alive", Decimal(0)) < 2
    assert any(cut.rule == "budget/extras" for _, decision in decisions for cut in decision.adjustments)


def test_warmth_goes_before_replicas_where_less_warm_is_cheaper():
    content = {
        "warmth": {"hot": 1, "asleep": 0.5, "standby": 0.1},
        "default": "x",
        "gpus": {"x": {"hourly": 0.8048, "date": datetime(2026, 1, 1, tzinfo=UTC).date(), "source": "test"}},
    }
    price = PriceList.parse(content).replica(None, 1)
    _, decisions = month(pool(200), price=price)
    floors = {str(decision.floor) for now, decision in decisions if now.weekday() < 5 and 8 <= now.hour < 19}
    assert "2 asleep" in floors
    assert not any("standby" in floor for floor in floors)
    _, decisions = month(pool(40), price=price)
    floors = {str(decision.floor) for now, decision in decisions if now.weekday() < 5 and 8 <= now.hour < 19}
    assert "2 standby" in floors


def test_an_exhausted_budget_says_that_requests_still_start_replicas():
    observed = Observation(pool(100), price=L4, spent=Decimal(100), demand=Demand(0.0))
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    _, decision = compose.decide(compose.initial(), observed, now)
    assert decision.floor == NOTHING
    assert decision.reason == "budget/exhausted"
    assert decision.until == datetime(2026, 11, 24, 19, tzinfo=UTC) or decision.until > now
    assert any("Requests still start replicas" in cut.detail for cut in decision.adjustments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"price": None}, "has no price"),
        ({"spent": None}, "is not known"),
        ({"price": packaged_prices().model_copy(update={"currency": "EUR"}).replica(None, 1)}, "in EUR"),
    ],
)
def test_without_a_known_cost_a_pool_with_a_budget_holds_nothing(change, words):
    observed = Observation(**({"pool": pool(400), "price": L4, "demand": Demand(0.0)} | change))
    _, decision = compose.decide(compose.initial(), observed, datetime(2026, 11, 24, 12, tzinfo=UTC))
    assert decision.floor == NOTHING
    assert words in decision.adjustments[-1].detail


def test_a_hold_does_not_break_the_budget():
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    hold = Hold(50, now + timedelta(hours=5))
    observed = Observation(pool(400), price=L4, spent=Decimal(330), demand=Demand(0.0), hold=hold)
    _, decision = compose.decide(compose.initial(), observed, now)
    assert decision.floor.replicas <= 2


def test_a_replica_without_a_gpu_is_free():
    price = packaged_prices().replica(None, 0)
    account, decisions = month(pool(1), price=price)
    assert account.spent == 0
    assert not any(decision.budget_adjustment for _, decision in decisions)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("day", "2026-11-24T00:00:00+01:00", "2026-11-25T00:00:00+01:00"),
        ("week", "2026-11-23T00:00:00+01:00", "2026-11-30T00:00:00+01:00"),
        ("month", "2026-11-01T00:00:00+01:00", "2026-12-01T00:00:00+01:00"),
    ],
)
def test_a_budget_period_is_one_of_the_pools_time_zone(period, start, end):
    spec = pool(1, timeZone="Europe/Berlin")
    now = datetime(2026, 11, 24, 12, tzinfo=UTC)
    expected = (datetime.fromisoformat(start), datetime.fromisoformat(end))
    assert budget_period(now, period, spec.zone) == expected
