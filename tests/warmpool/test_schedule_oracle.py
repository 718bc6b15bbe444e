"""The timeline agrees, minute by minute, with a slow oracle that only reads the clock of the zone."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from warmpool.domain.field_types import DAYS
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.schedule_exceptions import SpanException
from warmpool.domain.timeline import timeline
from warmpool.domain.windows import CronWindow, DatedWindow, SpanWindow

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
ZONES = sorted(available_timezones() - {"localtime"})


class Oracle:
    """Replicas for each minute; it knows nothing of offsets, only what the clock reads at each minute."""

    def __init__(self, pool: WarmPoolSpec, start: datetime, minutes: int) -> None:
        self.pool = pool
        durations = [window.duration.days + 1 for window in pool.windows if isinstance(window, CronWindow)]
        self.margin = (2 + max(durations, default=0)) * 24 * 60
        self.minutes = minutes
        self.instants = [start + step * MINUTE for step in range(-self.margin, minutes + self.margin)]
        zone = ZoneInfo(pool.time_zone)
        self.readings = [instant.astimezone(zone).replace(tzinfo=None) for instant in self.instants]
        self.days = sorted({reading.date() for reading in self.readings})

    def hull(self, low: datetime, high: datetime) -> set[int]:
        """All minutes from the first to the last whose reading is inside."""
        inside = [index for index, reading in enumerate(self.readings) if low <= reading < high]
        return set(range(inside[0], inside[-1] + 1)) if inside else set()

    def between(self, day: date, opens: time, closes: time) -> set[int]:
        last = day + DAY if closes < opens else day
        high = (
            datetime.combine(last + DAY, time.min) if closes == time.max else datetime.combine(last, closes)
        )
        return self.hull(datetime.combine(day, opens), high)

    def opened(self, window) -> set[int]:
        if isinstance(window, SpanWindow):
            return self.hull(window.start, window.end)
        if isinstance(window, CronWindow):
            return self.fired(window)
        if isinstance(window, DatedWindow):
            days = [day for day in self.days if named(window.dates, day)]
        else:
            days = [day for day in self.days if DAYS[day.weekday()] in window.days]
        return set().union(*(self.between(day, window.from_, window.to) for day in days))

    def fired(self, window: CronWindow) -> set[int]:
        found, before = set(), None
        for fires in CronSim(window.cron, self.readings[0] - 8 * DAY):
            if fires > self.readings[-1]:
                break
            passed = [
                i for i, reading in enumerate(self.readings) if reading >= fires and reading - fires < DAY
            ]
            if not passed:
                continue
            if before and fires - before[0] <= window.duration:
                found |= set(range(before[1], passed[0]))
            before = fires, passed[0]
            found |= set(range(passed[0], min(passed[0] + int(window.duration / MINUTE), len(self.readings))))
        return found

    def excepted(self, exception) -> tuple[set[int], set[int]]:
        """Where the exception alone counts, and where it holds its replicas."""
        if isinstance(exception, SpanException):
            span = self.hull(exception.start, exception.end)
            return span, span if exception.replicas else set()
        days = [day for day in self.days if named(exception.dates, day)]
        whole = set().union(*(self.between(day, time.min, time.max) for day in days))
        if not exception.replicas:
            return whole, set()
        held = set().union(*(self.between(day, exception.from_, exception.to) for day in days))
        return whole | held if exception.to < exception.from_ else whole, held

    def levels(self) -> list[int]:
        level = [0] * len(self.instants)
        closed: set[int] = set()
        for exception in self.pool.exceptions:
            covered, held = self.excepted(exception)
            for index in held - closed:
                level[index] = max(level[index], exception.replicas)
            closed |= covered
        for window in self.pool.windows:
            adds = isinstance(window, DatedWindow | SpanWindow)
            for index in self.opened(window) - (set() if adds else closed):
                level[index] = max(level[index], window.replicas)
        return level[self.margin : self.margin + self.minutes]


def named(dates, day: date) -> bool:
    """Whether one of the dates, once or of every year, is this day."""
    for item in dates:
        if isinstance(item.first, date):
            if item.first <= day <= item.last:
                return True
            continue
        of_year = (day.month, day.day)
        if item.first <= item.last and item.first <= of_year <= item.last:
            return True
        if item.first > item.last and (of_year >= item.first or of_year <= item.last):
            return True
    return False


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
    st.sampled_from(["0", "30", "59", "*/30"]),
    st.sampled_from(["*", "*/6", "2", "0", "1-3", "23"]),
    st.sampled_from(["*", "MON-FRI", "SUN"]),
    st.sampled_from(["10m", "30m", "1h", "3h30m", "26h"]),
    st.integers(1, 5),
)


def shown(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M}"


@st.composite
def dated(draw, day: date) -> dict:
    """A window on some dates about `day`, once or every year."""
    window = draw(weekly())
    del window["days"]
    dates = [f"{day}", f"{day - DAY}/{day + DAY}", f"{day:%m-%d}", f"{day - DAY:%m-%d}/{day + 2 * DAY:%m-%d}"]
    return window | {"dates": draw(st.lists(st.sampled_from(dates), min_size=1, max_size=2))}


@st.composite
def spans(draw, day: date) -> dict:
    """A start and an end about `day`."""
    start = datetime.combine(day, time.min) + draw(st.integers(-1440, 1440)) * MINUTE
    return {"start": shown(start), "end": shown(start + draw(st.integers(1, 3000)) * MINUTE)}


@st.composite
def exceptions(draw, day: date) -> dict:
    """An exception about `day`: whole days, hours of days, or a span."""
    kind = draw(st.sampled_from(["days", "hours", "span"]))
    replicas = draw(st.integers(0, 3))
    if kind == "span":
        return {**draw(spans(day)), "replicas": replicas}
    dates = [draw(st.sampled_from([f"{day}", f"{day - DAY}/{day + DAY}", f"{day:%m-%d}"]))]
    if kind == "days":
        return {"dates": dates, "replicas": replicas}
    opens = draw(st.one_of(times, small_times))
    closes = draw(st.one_of(times, small_times, st.just("24:00")).filter(lambda value: value != opens))
    return {"dates": dates, "replicas": replicas, "from": opens, "to": closes}


@st.composite
def pools(draw) -> tuple[WarmPoolSpec, datetime]:
    zone, start = draw(around_a_change())
    day = start.date() + draw(st.integers(0, 3)) * DAY
    span = spans(day).flatmap(lambda found: st.integers(1, 5).map(lambda n: {**found, "replicas": n}))
    windows = draw(st.lists(st.one_of(weekly(), weekly(), crons, dated(day), span), min_size=1, max_size=4))
    exceptional = draw(st.lists(exceptions(day), max_size=3))
    spec = {
        "target": "generate",
        "timeZone": zone,
        "windows": [{"name": f"w{index}", **window} for index, window in enumerate(windows)],
        "exceptions": [{"name": f"e{index}", **exception} for index, exception in enumerate(exceptional)],
    }
    return WarmPoolSpec.parse(spec), start


@settings(max_examples=50, deadline=None)
@given(pools())
def test_every_minute_of_two_days_in_any_zone_has_the_oracles_floor(case):
    pool, start = case
    assert measured(pool, start, 2 * 24 * 60) == Oracle(pool, start, 2 * 24 * 60).levels()


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
            assert measured(pool, day, 24 * 60) == Oracle(pool, day, 24 * 60).levels(), day
        day += DAY
