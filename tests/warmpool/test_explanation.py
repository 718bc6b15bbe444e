"""`pilotlight pool explain` says what is held now and what comes, also beyond the days it lists."""

from datetime import UTC, datetime

import pytest

from warmpool.explanation import explanation

MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)
OFFICE = {"name": "office", "days": ["Mon-Fri"], "from": "08:00", "to": "19:00", "replicas": 2}
LEAD = {"leadTime": "30s"}


def lines(spec, status=None, now=MONDAY, days=7):
    obj = {
        "metadata": {"name": "pool", "namespace": "default"},
        "spec": {"target": "generate", **spec},
        "status": {**LEAD, **(status or {})},
    }
    return explanation(obj, now, days)


def schedule(*args, **options):
    """The lines of the schedule, each as its columns."""
    found = lines(*args, **options)
    start = next(number for number, line in enumerate(found) if line.startswith("Schedule"))
    return [(line[2:24].strip(), line[25:37].strip(), line[38:]) for line in found[start + 1 :]]


def test_the_first_change_after_the_listed_days_is_shown():
    window = {"name": "eve", "dates": ["12-24"], "from": "10:00", "to": "12:00", "replicas": 1}
    assert schedule({"windows": [window]}) == [
        ("now", "0", "no window"),
        (
            "Thu 24 Dec 2026 09:59",
            "1 hot",
            "window eve, ready by 10:00 (the first change after these 7 days)",
        ),
    ]


@pytest.mark.parametrize(
    ("windows", "shown"),
    [
        ([{"name": "all", "from": "00:00", "to": "24:00", "replicas": 1}], [("now", "1 hot", "window all")]),
        ([], [("now", "0", "no window")]),
        (
            [{"name": "far", "start": "2029-01-01T10:00", "end": "2029-01-01T12:00", "replicas": 1}],
            [
                ("now", "0", "no window"),
                (
                    "Mon 01 Jan 2029 09:59",
                    "1 hot",
                    "window far, ready by 10:00 (the first change after these 7 days)",
                ),
            ],
        ),
    ],
)
def test_a_schedule_that_changes_late_or_never(windows, shown):
    assert schedule({"windows": windows}) == shown


def test_one_day_is_listed_as_24_hours():
    assert "Schedule of the next 24 hours (a budget, a hold or requests may change it):" in lines({}, days=1)


def test_an_exhausted_budget_shows_what_is_held_until_the_next_period():
    spec = {"windows": [OFFICE], "limits": {"budget": {"amount": 10, "period": "week"}}}
    status = {"held": "0", "floor": 0, "reason": "budget/exhausted"}
    assert schedule(spec, status)[:3] == [
        ("now", "0", "budget/exhausted (window office asks for 2 hot)"),
        ("Mon 23 Nov 2026 19:00", "0", "the schedule asks for 0; the budget allows nothing"),
        ("Tue 24 Nov 2026 07:59", "0", "window office asks for 2 hot; the budget allows nothing"),
    ]
    # The next week has its own budget.
    later = [line for line in schedule(spec, status, days=8) if line[0].startswith("Mon 30 Nov")]
    assert later == [
        ("Mon 30 Nov 2026 07:59", "2 hot", "window office, ready by 08:00"),
        ("Mon 30 Nov 2026 19:00", "0", "no window"),
    ]


def test_a_hold_is_what_is_held_now():
    status = {"held": "5 hot", "floor": 5, "reason": "hold"}
    assert schedule({"windows": [OFFICE]}, status)[0] == (
        "now",
        "5 hot",
        "hold (window office asks for 2 hot)",
    )


@pytest.mark.parametrize(
    ("limits", "floors"),
    [({"max": 1}, ["1 hot", "0"]), ({"min": 1}, ["2 hot", "1 hot"]), ({"max": 0}, ["0"])],
)
def test_the_schedule_is_within_the_limits(limits, floors):
    assert [floor for _, floor, _ in schedule({"windows": [OFFICE], "limits": limits}, days=1)][
        : len(floors)
    ] == floors


def test_outliers_of_the_cold_start_are_named():
    cold = {"p50": "30.0s", "p95": "31.0s", "samples": 16, "outliers": ["3h"]}
    assert "Left out as outliers: cold starts of 3h." in lines({}, {"coldStart": cold})


def test_what_is_probably_a_mistake_is_a_warning():
    assert "Warning: spec.timeZone: EST has no summer time; America/New_York has" in lines(
        {"timeZone": "EST"}
    )


def test_an_invalid_pool_says_what_is_wrong_with_it():
    assert lines({"timeZone": "Nowhere"}) == [
        "default/pool is invalid:",
        "  spec.timeZone = 'Nowhere', must be an IANA time zone such as Europe/Berlin, America/New_York or UTC",
    ]
