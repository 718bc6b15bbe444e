"""Durations, floors, prices, dates and cron expressions: the values that decisions are made of."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmpool.domain.cost import PriceList, ReplicaPrice
from warmpool.domain.cron import CronError, parse_cron
from warmpool.domain.date_ranges import DateRange, merge, parse_dates
from warmpool.domain.duration import format_duration, parse_duration
from warmpool.domain.field_types import WARMTHS
from warmpool.domain.floor import NOTHING, Floor
from warmpool.domain.spec_errors import SpecError
from warmpool.policy.formatting import format_instant

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("7d", 604_800), ("1d2h3m4s", 93_784), ("0s", 0)],
)
def test_a_duration_is_read_and_written(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "m", "1.5h", "-1s", "1m1h", " 1s", "1s ", "367d", "9" * 5000 + "s", "²s"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@given(st.integers(0, 366 * 86_400))
def test_every_duration_in_whole_seconds_survives_writing(seconds):
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Floor.of(2), Floor.of(3, "standby"), Floor(2, 2, 3)),
        (Floor.of(2), Floor.of(1), Floor.of(2)),
        (Floor.of(1, "asleep"), Floor.of(2, "standby"), Floor(0, 1, 2)),
        (NOTHING, NOTHING, NOTHING),
    ],
)
def test_two_floors_together_are_the_least_that_satisfies_both(one, other, both):
    assert one | other == other | one == both


@pytest.mark.parametrize(
    ("floor", "text"),
    [(Floor(2, 2, 3), "2 hot + 1 standby"), (Floor(1, 2, 4), "1 hot + 1 asleep + 2 standby"), (NOTHING, "0")],
)
def test_a_floor_is_written_by_warmth(floor, text):
    assert str(floor) == text


@pytest.mark.parametrize("counts", [(-1, 0, 0), (2, 1, 1), (0, 2, 1)])
def test_a_floor_that_contradicts_itself_is_refused(counts):
    with pytest.raises(ValueError, match="0 <= hot <= asleep <= standby"):
        Floor(*counts)


def test_a_lower_bound_drops_the_least_warm_first():
    floor = Floor(1, 2, 4)
    assert [floor.at_most(count) for count in range(5)] == [
        NOTHING,
        Floor(1, 1, 1),
        Floor(1, 2, 2),
        Floor(1, 2, 3),
        floor,
    ]
    assert [floor.no_warmer_than(warmth) for warmth in WARMTHS] == [floor, Floor(0, 2, 4), Floor(0, 0, 4)]


PRICES = {
    "default": "a",
    "coldStartPenalty": 0.02,
    "warmth": {"hot": 1, "asleep": 0.5, "standby": 0.1},
    "gpus": {
        "a": {"hourly": 3.6, "date": date(2026, 1, 1), "source": "test"},
        "NVIDIA-L4": {"hourly": 0.72, "date": date(2026, 1, 1), "source": "test"},
    },
}


@pytest.mark.parametrize(
    ("gpu", "gpus", "floor", "per_second"),
    [
        (None, 1, Floor.of(1), "0.001"),
        (None, 2, Floor.of(3), "0.006"),
        ("nvidia_l4", 1, Floor.of(1), "0.0002"),
        (None, 1, Floor(1, 2, 3), "0.0016"),
        (None, 0, Floor.of(9), "0"),
        ("unlisted", 0, Floor.of(9), "0"),
    ],
)
def test_a_floor_costs_its_gpus_by_warmth(gpu, gpus, floor, per_second):
    assert PriceList.parse(PRICES).replica(gpu, gpus).rate(floor) == Decimal(per_second)


def test_a_gpu_that_is_not_in_the_list_has_no_price():
    assert PriceList.parse(PRICES).replica("unlisted", 1) is None
    assert PriceList.parse({**PRICES, "default": None}).replica(None, 1) is None
    assert ReplicaPrice(Decimal(1)).rate(Floor(1, 2, 3)) == 3  # without shares every warmth costs the same


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"default": "b"}, "must have a default among its gpus (a, NVIDIA-L4), not 'b'"),
        (
            {"warmth": {"asleep": 0.1, "standby": 0.5}},
            "must not price a less warm replica above a warmer one",
        ),
        ({"gpus": {"a": {"hourly": -1, "date": date(2026, 1, 1), "source": "t"}}}, "hourly"),
        ({"gpus": {"a": {"hourly": 1, "date": date(2026, 1, 1), "source": ""}}}, "source"),
        ({"gpus": {"a": {"hourly": math.inf, "date": date(2026, 1, 1), "source": "t"}}}, "a finite number"),
        ({"coldStartPenalty": math.nan}, "prices.coldStartPenalty = nan, must be a finite number"),
        ({"currency": "dollars"}, "prices.currency = 'dollars', must match"),
        ({"unknown": 1}, "prices.unknown is not a field"),
    ],
)
def test_a_price_list_with_a_mistake_is_refused(change, words):
    with pytest.raises(SpecError) as refused:
        PriceList.parse({**PRICES, **change})
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("dates", "first", "last", "days"),
    [
        (["2026-12-24"], "2026-12-20", "2026-12-31", ["2026-12-24"]),
        (["2026-12-24/2027-01-02"], "2026-12-30", "2026-12-31", ["2026-12-30", "2026-12-31"]),
        (["12-24"], "2026-12-01", "2028-01-01", ["2026-12-24", "2027-12-24"]),
        (["12-31/01-01"], "2026-12-30", "2027-01-03", ["2026-12-31", "2027-01-01"]),
        (["12-31/01-01"], "2027-01-01", "2027-01-03", ["2027-01-01"]),
        (["02-29"], "2026-01-01", "2028-12-31", ["2028-02-29"]),
        (["02-28/03-01"], "2027-01-01", "2027-12-31", ["2027-02-28", "2027-03-01"]),
        (["02-29/03-01"], "2027-01-01", "2027-12-31", ["2027-03-01"]),
        (["01-01/12-31"], "2027-03-01", "2027-03-02", ["2027-03-01", "2027-03-02"]),
    ],
)
def test_dates_name_days(dates, first, last, days):
    first, last = date.fromisoformat(first), date.fromisoformat(last)
    ranges = merge(item for entry in parse_dates(dates) for item in entry.within(first, last))
    named = [
        item.first + timedelta(days=n) for item in ranges for n in range((item.last - item.first).days + 1)
    ]
    assert [str(day) for day in named] == days


def test_neighbouring_and_overlapping_ranges_are_merged():
    day = date(2026, 12, 1)
    ranges = [DateRange(day, day), DateRange(day + timedelta(days=1), day + timedelta(days=3))]
    assert merge(reversed([*ranges, DateRange(day, day + timedelta(days=2))])) == [
        DateRange(day, day + timedelta(days=3))
    ]


@pytest.mark.parametrize(
    ("expression", "minutes", "spans"),
    [
        ("0 8 * * *", (480,), ((480, 480),)),
        ("0,30 8 * * *", (480, 510), ((480, 510),)),
        ("0 8,10 * * *", (480, 600), ((480, 480), (600, 600))),
    ],
)
def test_firings_within_a_duration_are_one_opening(expression, minutes, spans):
    schedule = parse_cron(expression)
    assert schedule.minutes_of_day == minutes
    assert schedule.daily_spans(timedelta(minutes=30)) == spans


def test_a_cron_expression_fires_on_the_days_that_match():
    assert parse_cron("0 8 * * MON-FRI").fires_on(date(2026, 11, 24))
    assert not parse_cron("0 8 * * MON-FRI").fires_on(date(2026, 11, 28))
    assert parse_cron("0 8 L * *").fires_on(date(2026, 2, 28))
    assert parse_cron("0 0 29 2 *").fires_on(date(2028, 2, 29))


@pytest.mark.parametrize("expression", ["", "* * * *", "60 * * * *", "0 0 31 2 *", "x" * 200, "0 8 * * FUN"])
def test_what_is_no_cron_expression_or_never_fires_is_refused(expression):
    with pytest.raises(CronError):
        parse_cron(expression)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (NOW + timedelta(hours=7), "19:00"),
        (NOW + timedelta(hours=7, seconds=5), "19:00:05"),
        (NOW + timedelta(days=6), "Mon 30 Nov 12:00"),
    ],
)
def test_an_instant_is_shown_as_local_time(instant, text):
    assert format_instant(instant, NOW, UTC) == text
