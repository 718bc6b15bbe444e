"""What cold starts take, without the outliers, and the lead time that follows."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.warmpool.conftest import make_controller
from warmpool.domain.cold_start import ColdStart, ColdStartSamples, ColdStartStats, lead_time, split_outliers
from warmpool.domain.observation import DEFAULT_LEAD
from warmpool.ports import InMemoryHistory

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
OUTAGE = 3 * 3600.0


def samples(*seconds):
    found = ColdStartSamples()
    for value in seconds:
        found.add(ColdStart(NOW, value))
    return found


@pytest.mark.parametrize(
    ("seconds", "outliers"),
    [
        ([30.0], []),
        ([30.0, OUTAGE], []),  # nobody can tell which of two is the usual one
        ([30.0, 30.0, OUTAGE], [OUTAGE]),
        ([OUTAGE, 30.0, 30.0], [OUTAGE]),
        ([*[30.0] * 15, OUTAGE], [OUTAGE]),
        ([*[30.0] * 15, OUTAGE, OUTAGE + 1], [OUTAGE, OUTAGE + 1]),
        # Three in a row: starts have become slower.
        ([*[30.0] * 60, 400.0, 410.0, 420.0], []),
        ([*[30.0] * 60, 400.0, 410.0, 420.0, 30.0], [400.0, 410.0, 420.0]),
        # One in five, as where some nodes have the image and some do not.
        ([*[30.0, 30.0, 30.0, 30.0, 200.0] * 4], []),
        # The spread of ordinary starts.
        ([20.0, 25.0, 31.0, 38.0, 52.0, 70.0], []),
        ([0.5, 0.6, 0.5, 9.0], []),
    ],
)
def test_a_start_far_above_the_others_is_an_outlier(seconds, outliers):
    usual, found = split_outliers(seconds)
    assert found == outliers
    assert sorted([*usual, *found]) == sorted(seconds)


def test_one_outage_does_not_change_the_lead_time():
    stats = samples(*[30.0] * 15, OUTAGE).stats()
    assert lead_time("auto", stats) == (timedelta(seconds=30), "measured")
    assert stats.samples == 16
    assert stats.outliers == (timedelta(hours=3),)


def test_slower_starts_are_believed_at_the_third():
    known = samples(*[30.0] * 40, 300.0, 310.0)
    assert lead_time("auto", known.stats())[0] == timedelta(seconds=30)
    known.add(ColdStart(NOW, 305.0))
    assert lead_time("auto", known.stats())[0] == timedelta(seconds=300)


def stats_of(seconds):
    return ColdStartStats(timedelta(seconds=seconds), timedelta(seconds=seconds), 1)


@pytest.mark.parametrize(
    ("wanted", "measured", "lead"),
    [
        (timedelta(minutes=5), stats_of(30), (timedelta(minutes=5), "fixed")),
        ("auto", None, (DEFAULT_LEAD, "default")),
        ("auto", stats_of(30.2), (timedelta(seconds=31), "measured")),
        ("auto", stats_of(0.1), (timedelta(seconds=2), "measured")),
        ("auto", stats_of(4 * 3600), (timedelta(hours=2), "measured")),
    ],
)
def test_the_lead_time_is_the_p95_between_its_bounds(wanted, measured, lead):
    assert lead_time(wanted, measured) == lead


def test_only_the_latest_two_hundred_starts_count():
    stats = samples(*[500.0] * 200, *[10.0] * 200).stats()
    assert (stats.p95, stats.samples) == (timedelta(seconds=10), 200)


async def test_the_status_has_the_lead_time_without_the_outlier_and_names_it(knative, cluster, clock):
    knative.service("generate")
    await knative.pool()
    history = InMemoryHistory()
    for seconds in (*[30.0] * 15, OUTAGE):
        history.add_cold_start(("default", "generate"), ColdStart(NOW, seconds))
    await make_controller(cluster, clock=clock, history=history).tick()
    status = await knative.status()
    assert status["leadTime"] == "30s"
    assert status["coldStart"] == {"p50": "30.0s", "p95": "30.0s", "samples": 16, "outliers": ["3h"]}
