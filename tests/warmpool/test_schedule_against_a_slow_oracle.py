"""The timeline agrees, minute by minute, with an oracle that only looks at the clock on the wall."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from warmpool.domain.calendar import timeline
from warmpool.domain.pool import DAYS, CronWindow, WarmPoolSpec, WeeklyWindow

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
ZONES = sorted(available_timezones() - {"localtime"})


def end_of(day: date, at: time) -> datetime:
    return datetime.combine(day + DAY, time.min) if at == time.max else datetime.combine(day, at)


def excepted(pool: WarmPoolSpec, day: date):
    for exception in pool.exceptions:
        if any(first <= day <= last for first, last in exception.dates):
            return exception
    return None


def oracle(pool: WarmPoolSpec, start: datetime, minutes: int) -> list[int]:  # noqa: PLR0912  slow and obvious on purpose
    """Replicas for each minute: every window of every day as the hull of the minutes whose reading is inside.

    It knows nothing of offsets: it asks the zone what the clock reads at each minute of a long stretch.
    """
    zone = ZoneInfo(pool.time_zone)
    margin = (
        (2 + max((w.duration.days + 1 for w in pool.windows if isinstance(w, CronWindow)), default=0))
        * 24
        * 60
    )
    instants = [start + step * MINUTE for step in range(-margin, minutes + margin)]
    readings = [instant.astimezone(zone).replace(tzinfo=None) for instant in instants]
    level = [0] * len(instants)
    gone = [False] * len(instants)

    def hull(low: datetime, high: datetime) -> range:
        inside = [index for index, reading in enumerate(readings) if low <= reading < high]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    days = sorted({reading.date() for reading in readings})
    for day in days:
        if excepted(pool, day):
            for index in hull(datetime.combine(day, time.min), datetime.combine(day + DAY, time.min)):
                gone[index] = True
    for window in pool.windows:
        for day in days:
            if isinstance(window, WeeklyWindow):
                if DAYS[day.weekday()] not in window.days:
                    continue
                low = datetime.combine(day, window.from_)
                high = end_of(day + DAY if window.to < window.from_ else day, window.to)
                covered = hull(low, high)
            else:
                continue
            for index in covered:
                if not gone[index]:
                    level[index] = max(level[index], window.replicas)
        if isinstance(window, CronWindow):
            for fires in CronSim(window.cron, readings[0] - 8 * DAY):
                if fires > readings[-1]:
                    break
                passed = [
                    i for i, reading in enumerate(readings) if reading >= fires and reading - fires < DAY
                ]
                if not passed:
                    continue
                opened = instants[passed[0]]
                for index, instant in enumerate(instants):
                    if opened <= instant < opened + window.duration and not gone[index]:
                        level[index] = max(level[index], window.replicas)
    for day in days:
        exception = excepted(pool, day)
        if exception and exception.replicas:
            low = datetime.combine(day, exception.from_)
            for index in hull(low, end_of(day, exception.to)):
                level[index] = max(level[index], exception.replicas)
    return level[margin : margin + minutes]


def measured(pool: WarmPoolSpec, start: datetime, minutes: int) -> list[int]:
    segments = timeline(pool, timedelta(0), start, start + minutes * MINUTE)
    level = []
    for segment in segments:
        level += [segment.floor.replicas] * int((segment.end - segment.start) / MINUTE)
    return level


@st.composite
def around_a_change(draw) -> tuple[str, datetime]:
    """A zone and an instant; half of the time within two days of a change of its offset, if it has any."""
    zone = draw(st.sampled_from(ZONES))
    base = datetime(2024, 1, 1, tzinfo=UTC) + draw(st.integers(0, 10 * 366)) * DAY
    if draw(st.booleans()):
        local = ZoneInfo(zone)
        for step in range(370):
            day = base + step * DAY
            if day.astimezone(local).utcoffset() != (day + DAY).astimezone(local).utcoffset():
                return zone, day - DAY
    return zone, base


times = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.sampled_from([0, 1, 15, 30, 45, 59]))
small_times = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 4), st.sampled_from([0, 1, 15, 30, 59]))


@st.composite
def weekly(draw) -> dict:
    opens = draw(st.one_of(times, small_times))
    closes = draw(st.one_of(times, small_times, st.just("24:00")).filter(lambda value: value != opens))
    return {
        "days": draw(st.lists(st.sampled_from(DAYS), min_size=1, unique=True)),
        "from": opens,
        "to": closes,
        "replicas": draw(st.integers(1, 5)),
    }


crons = st.builds(
    lambda minute, hour, day, duration, replicas: {
        "cron": f"{minute} {hour} * * {day}",
        "duration": duration,
        "replicas": replicas,
    },
    st.sampled_from(["0", "30", "59"]),
    st.sampled_from(["*/6", "2", "0", "1-3", "23"]),
    st.sampled_from(["*", "MON-FRI", "SUN"]),
    st.sampled_from(["10m", "1h", "3h30m", "26h"]),
    st.integers(1, 5),
)


@st.composite
def pools(draw) -> tuple[WarmPoolSpec, datetime]:
    zone, start = draw(around_a_change())
    windows = draw(st.lists(st.one_of(weekly(), weekly(), crons), min_size=1, max_size=4))
    day = start.date() + draw(st.integers(0, 3)) * DAY
    exceptions = []
    if draw(st.booleans()):
        exceptions = [
            {"name": "first", "dates": [f"{day}"], "replicas": draw(st.integers(0, 3))},
            {
                "name": "second",
                "dates": [f"{day - DAY}/{day + DAY}"],
                "replicas": 1,
                "from": "02:30",
                "to": "13:00",
            },
        ][draw(st.integers(0, 1)) :]
    spec = {
        "target": "generate",
        "timeZone": zone,
        "windows": [{"name": f"w{index}", **window} for index, window in enumerate(windows)],
        "exceptions": exceptions,
    }
    return WarmPoolSpec.parse(spec), start


@settings(max_examples=50, deadline=None)
@given(pools())
def test_every_minute_of_two_days_in_any_zone_has_the_oracles_floor(case):
    pool, start = case
    assert measured(pool, start, 2 * 24 * 60) == oracle(pool, start, 2 * 24 * 60)


@settings(max_examples=100, deadline=None)
@given(pools(), st.integers(0, 7200))
def test_segments_cover_the_span_without_holes_and_neighbours_differ(case, lead):
    pool, start = case
    end = start + 5 * DAY
    segments = timeline(pool, timedelta(seconds=lead), start, end)
    assert segments[0].start == start
    assert segments[-1].end == end
    for left, right in pairwise(segments):
        assert left.end == right.start
        assert (left.floor, left.names, left.opens) != (right.floor, right.names, right.opens)


@settings(max_examples=60, deadline=None)
@given(pools(), st.integers(1, 3600))
def test_with_a_lead_the_floor_is_never_lower_and_rises_exactly_that_much_earlier(case, lead):
    pool, start = case
    lead = timedelta(seconds=lead)
    end = start + 2 * DAY
    plain = timeline(pool, timedelta(0), start, end + lead)
    early = timeline(pool, lead, start, end)

    def at(segments, instant):
        return next(s.floor.replicas for s in segments if s.start <= instant < s.end)

    edges = {s.start for s in early} | {s.start - lead for s in plain} | {s.start for s in plain}
    for edge in edges:
        if not start <= edge < end:
            continue
        coming = [s.floor.replicas for s in plain if s.start <= edge + lead and s.end > edge]
        assert at(early, edge) == max(coming)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/Sao_Paulo", "Africa/Casablanca", "Australia/Lord_Howe"]
)
def test_ten_years_around_every_change_of_offset(zone):
    local = ZoneInfo(zone)
    pool = WarmPoolSpec.parse(
        {
            "target": "generate",
            "timeZone": zone,
            "windows": [
                {"name": "gap", "from": "02:15", "to": "02:45", "replicas": 3},
                {"name": "night", "from": "22:00", "to": "02:10", "replicas": 2},
                {"name": "dawn", "from": "01:30", "to": "05:00", "replicas": 1},
            ],
        }
    )
    day = datetime(2017, 1, 1, tzinfo=UTC)
    while day < datetime(2027, 1, 1, tzinfo=UTC):
        if day.astimezone(local).utcoffset() != (day + DAY).astimezone(local).utcoffset():
            assert measured(pool, day, 24 * 60) == oracle(pool, day, 24 * 60), day
        day += DAY
