"""Recommendations: windows that follow the traffic, judged by days that were held back."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments.candidates import everyday
from warmpool.experiments.cold_start import Constant
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.generate import Diurnal, OnOff, Poisson, generate
from warmpool.experiments.recommend import Objective, recommend
from warmpool.experiments.simulator import Load, Replica
from warmpool.experiments.trace import Trace

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def office(seed: int = 1, days: int = 10) -> Trace:
    """Traffic from 08:00 to 18:00 on working days alone."""
    hours = tuple(1.0 if 8 <= hour < 18 else 0.0 for hour in range(24))
    return generate(
        Diurnal(kind="diurnal", duration=timedelta(days=days), peak=0.004, weekend=0.0, hours=hours),
        MONDAY,
        seed,
    )


def recommended(arrivals, *, load_s=60.0, concurrency=8, first_token_s=0.2, rate=0.02, **options):
    service_s = np.full(len(arrivals), 5.0)
    load = Load("function", arrivals, service_s, np.full(len(arrivals), first_token_s))
    replica = Replica(cold_starts=Constant(load_s), concurrency=concurrency, hourly=1.0)
    settings = {
        "start": MONDAY,
        "time_zone": "UTC",
        "objective": Objective(cold_start_rate=rate),
        **options,
    }
    return recommend(load, replica, **settings)


def arm(found, name):
    return next(entry for entry in found.arms if entry.name.startswith(name))


def test_office_hours_get_a_window_on_working_days():
    trace = office()
    today = WarmPoolTemplate.model_validate({"keepAlive": "1h"})
    found = recommended(trace.arrivals, start=trace.start, today=today)

    assert [entry.name for entry in found.arms][:3] == ["recommended", "today", "no pool"]
    assert arm(found, "today").cold_rate < arm(found, "no pool").cold_rate
    assert found.spec is not None
    (window,) = found.spec.windows
    assert window.days == ("Mon", "Tue", "Wed", "Thu", "Fri")
    assert window.from_.hour in {7, 8}
    assert window.to.hour in {17, 18}
    assert window.replicas == 1
    assert found.spec.forecast is None  # windows that a person can read come first
    assert found.kept
    assert found.arms[0].cold_rate <= 0.02
    assert found.arms[0].cost < arm(found, "always").cost * 0.6
    assert arm(found, "no pool").cold_rate > 0.02
    assert found.confidence.startswith("Kept on the days held back, which it had not seen: ")
    assert "on 3 days, " in found.confidence


def test_the_windows_follow_the_clock_of_the_zone():
    trace = office()
    found = recommended(trace.arrivals, start=trace.start, time_zone="Asia/Tokyo")

    assert found.spec is not None
    assert found.spec.time_zone == "Asia/Tokyo"
    window = found.spec.windows[0]
    assert window.days == ("Mon", "Tue", "Wed", "Thu", "Fri")
    assert (window.from_.hour, window.to.hour) == (17, 3)
    assert found.kept


def test_steady_traffic_that_keeps_itself_warm_needs_no_pool():
    trace = generate(Poisson(kind="poisson", duration=timedelta(days=2, hours=1), rate=0.5), MONDAY, 2)

    found = recommended(trace.arrivals, rate=0.05)

    assert found.spec is None
    assert arm(found, "no pool").cold_rate <= 0.05


def test_a_p95_of_the_ttft_is_kept_by_fewer_cold_starts_than_its_tail():
    trace = office()
    found = recommended(trace.arrivals, start=trace.start, objective=Objective(ttft_p95_s=2.0))

    assert found.kept
    assert found.arms[0].ttft_p95_s <= 2.0
    assert found.arms[0].cold_rate <= 0.05
    assert arm(found, "no pool").ttft_p95_s > 2.0


def test_a_p95_below_that_of_warm_requests_is_refused():
    with pytest.raises(
        ExperimentError, match=r"cannot be kept by any pool: that of warm requests is 3\.00 s"
    ):
        recommended(office().arrivals, first_token_s=3.0, objective=Objective(ttft_p95_s=2.0))


def test_a_budget_buys_as_few_cold_starts_as_it_pays_for_and_stands_in_the_pool():
    trace = office()
    found = recommended(trace.arrivals, start=trace.start, objective=Objective(monthly_budget=400.0))

    assert found.spec is not None
    assert found.spec.limits.budget.amount == 400
    assert found.arms[0].cold_rate < arm(found, "no pool").cold_rate
    assert found.arms[0].monthly < arm(found, "always").monthly
    assert found.kept == (found.arms[0].monthly <= 400)


def test_a_forecast_is_recommended_where_it_buys_something_and_says_what():
    # Busy and quiet times at any hour: no window follows them.
    kind = {"kind": "on-off", "on": timedelta(minutes=30), "off": timedelta(hours=2)}
    trace = generate(OnOff(**kind, duration=timedelta(days=3), rate=0.05), MONDAY, 3)
    found = recommended(trace.arrivals, concurrency=1, rate=0.05, load_s=30.0)

    assert found.spec is not None
    assert found.spec.forecast is not None
    assert found.forecast_buys.startswith("The forecast saves ")
    assert "USD a month over windows alone on the days held back" in found.forecast_buys


def test_a_fixed_floor_is_one_window_around_the_clock():
    assert everyday(3).spec("UTC").to_wire()["windows"] == [
        {"name": "always", "from": "00:00", "to": "24:00", "replicas": 3}
    ]


def test_a_short_trace_is_refused_and_a_thin_one_is_called_weak():
    short = generate(Poisson(kind="poisson", duration=timedelta(hours=20), rate=0.1), MONDAY, 1)
    thin = generate(Poisson(kind="poisson", duration=timedelta(days=6), rate=0.0005), MONDAY, 1)

    with pytest.raises(ExperimentError, match=r"lasts 0\.83 days; a recommendation needs at least 2"):
        recommended(short.arrivals)
    assert recommended(thin.arrivals, rate=0.01).confidence.startswith(("Weak", "No candidate"))


def test_days_of_the_week_that_were_never_seen_are_named_when_the_objective_is_missed():
    rng = np.random.default_rng(4)
    # So dense for two days that no pool is needed, and a request every four minutes on the third.
    dense = np.sort(rng.random(24_000)) * 2 * 86_400
    thin = 2 * 86_400 + np.sort(rng.random(360)) * 86_000
    found = recommended(np.concatenate([dense, thin]))

    assert not found.kept
    assert found.confidence.startswith("Not kept on the days held back")
    assert found.confidence.endswith("some days of the week were never seen.")


@pytest.mark.parametrize(
    "given",
    [{}, {"cold_start_rate": 0.1, "monthly_budget": 3.0}, {"ttft_p95_s": 1.0, "cold_start_rate": 0.1}],
)
def test_an_objective_is_exactly_one(given):
    with pytest.raises(ExperimentError, match="must have exactly one objective"):
        Objective(**given)
