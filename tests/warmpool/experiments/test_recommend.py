"""Recommendations: windows that follow the traffic, judged by days that were held back."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.generate import Diurnal, Poisson, generate
from warmpool.experiments.recommend import recommend
from warmpool.experiments.trace import Trace

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def office(seed: int = 1, days: int = 21) -> Trace:
    """Traffic from 08:00 to 18:00 on working days alone."""
    hours = tuple(1.0 if 8 <= hour < 18 else 0.0 for hour in range(24))
    return generate(
        Diurnal(kind="diurnal", duration=timedelta(days=days), peak=0.02, weekend=0.0, hours=hours),
        MONDAY,
        seed,
    )


def recommended(trace: Trace, **options):
    settings = {
        "start": trace.start,
        "time_zone": "UTC",
        "load_s": 60.0,
        "concurrency": 8,
        "hourly": 1.0,
        "gpus": 1,
        "objective": 0.02,
        **options,
    }
    return recommend(trace.arrivals, np.full(len(trace), 5.0), **settings)


def test_office_hours_get_a_window_on_working_days():
    found = recommended(office())

    assert found.spec is not None
    (window,) = found.spec.windows
    assert window.days == ("Mon", "Tue", "Wed", "Thu", "Fri")
    assert window.from_.hour in {7, 8}
    assert window.to.hour in {17, 18}
    assert window.replicas == 1
    assert found.kept
    assert found.arms[0].cold_rate <= 0.02
    always = next(arm for arm in found.arms if arm.name.startswith("always"))
    assert found.arms[0].cost < always.cost * 0.6
    assert found.confidence.startswith("Kept on the days held back")


def test_the_windows_follow_the_clock_of_the_zone():
    found = recommended(office(), time_zone="Asia/Tokyo")

    assert found.spec is not None
    assert found.spec.time_zone == "Asia/Tokyo"
    window = found.spec.windows[0]
    assert window.days == ("Mon", "Tue", "Wed", "Thu", "Fri")
    assert (window.from_.hour, window.to.hour) == (17, 3)
    assert found.kept


def test_steady_traffic_that_keeps_itself_warm_needs_no_pool():
    trace = generate(Poisson(kind="poisson", duration=timedelta(days=3), rate=0.5), MONDAY, 2)

    found = recommended(trace, objective=0.05)

    assert found.spec is None
    assert found.arms[1].name == "no pool"
    assert found.arms[1].cold_rate <= 0.05


def test_a_short_trace_is_refused_and_a_thin_one_is_called_weak():
    short = generate(Poisson(kind="poisson", duration=timedelta(hours=20), rate=0.1), MONDAY, 1)
    thin = generate(Poisson(kind="poisson", duration=timedelta(days=6), rate=0.0005), MONDAY, 1)

    with pytest.raises(ExperimentError, match=r"lasts 0\.83 days; a recommendation needs at least 2"):
        recommended(short)
    assert recommended(thin, objective=0.01).confidence.startswith(("Weak", "No candidate"))


def test_days_of_the_week_that_were_never_seen_are_named_when_the_objective_is_missed():
    rng = np.random.default_rng(4)
    # So dense from Monday to Friday that no pool is needed, and a request every four minutes on Sunday.
    weekdays = np.sort(rng.random(60_000)) * 5 * 86_400
    sunday = 6 * 86_400 + np.sort(rng.random(360)) * 86_000
    arrivals = np.concatenate([weekdays, sunday])
    found = recommend(
        arrivals,
        np.full(len(arrivals), 5.0),
        start=MONDAY,
        time_zone="UTC",
        load_s=60.0,
        concurrency=8,
        hourly=1.0,
        gpus=1,
        objective=0.02,
    )

    assert not found.kept
    assert found.confidence.startswith("Not kept on the days held back")
    assert found.confidence.endswith("some days of the week were never seen.")
