"""Ten years of every IANA zone: at each change of an offset, windows open and close as the clock of the zone shows."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import accumulate
from zoneinfo import ZoneInfo, available_timezones

from warmpool.domain.local_time import closing, opening
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.timeline import timeline

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
FROM, YEARS = datetime(2024, 1, 1, tzinfo=UTC), 10
STEP = timedelta(days=5)
"""No zone changes its offset and back within so short a time."""
AROUND = 6 * HOUR
"""How much time is examined on either side of a change."""


@cache
def changes() -> list[tuple[str, datetime]]:
    """Every zone (one of those that agree for ten years) with each instant at which its offset changes."""
    seen: dict[tuple[object, ...], str] = {}
    looks = [FROM + number * STEP for number in range(YEARS * 365 // STEP.days)]
    instants = [look.timestamp() for look in looks]
    for name in sorted(available_timezones() - {"localtime"}):
        zone = ZoneInfo(name)
        offsets = [datetime.fromtimestamp(instant, zone).utcoffset() for instant in instants]
        edges = [number for number in range(len(looks) - 1) if offsets[number] != offsets[number + 1]]
        times = tuple(_first_after(zone, looks[number]) for number in edges)
        seen.setdefault((offsets[0], times, *(offsets[number + 1] for number in edges)), name)
    return [(name, instant) for (_, times, *_), name in seen.items() for instant in times]


def _first_after(zone: ZoneInfo, day: datetime) -> datetime:
    """The first minute with another offset than at that instant, within a step."""
    before = day.astimezone(zone).utcoffset()
    low, high = 0, int(STEP / MINUTE)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high)
            if (day + middle * MINUTE).astimezone(zone).utcoffset() == before
            else (low, middle)
        )
    return day + high * MINUTE


class LocalClock:
    """What the clock of a zone shows, minute by minute, without any knowledge of offsets."""

    def __init__(self, zone: ZoneInfo, change: datetime) -> None:
        self.start = change - AROUND
        minutes = range(2 * int(AROUND / MINUTE))
        self.readings = [
            (self.start + minute * MINUTE).astimezone(zone).replace(tzinfo=None) for minute in minutes
        ]
        self._highest = list(accumulate(self.readings, max))
        self._lowest = list(accumulate(reversed(self.readings), min))[::-1]

    def first_at(self, wall: datetime) -> datetime:
        """The first minute at which the clock shows this time or a later one."""
        return self.start + bisect_left(self._highest, wall) * MINUTE

    def after_last_before(self, wall: datetime) -> datetime:
        """The minute after the last one at which it shows an earlier time."""
        return self.start + bisect_left(self._lowest, wall) * MINUTE


def test_there_are_changes_in_many_zones():
    zones = {name for name, _ in changes()}
    assert len(zones) > 30
    assert len(changes()) > 20 * len(zones) / 2


def test_every_time_of_day_around_every_change_is_reached_when_the_clock_shows_it():
    for name, change in changes():
        zone = ZoneInfo(name)
        clock = LocalClock(zone, change)
        middle = clock.readings[len(clock.readings) // 2]
        for quarter in range(-10, 11):
            reading = middle + quarter * timedelta(minutes=15)
            assert opening(reading, zone) == clock.first_at(reading), (name, change, reading)
            assert closing(reading, zone) == clock.after_last_before(reading), (name, change, reading)


def test_windows_around_every_change_hold_what_the_clock_shows():
    spans = ((-150, 0, 1), (-15, 20, 2), (-60, 75, 3), (45, 200, 1))  # minutes from the change, replicas
    for name, change in changes():
        clock = LocalClock(ZoneInfo(name), change)
        middle = clock.readings[len(clock.readings) // 2]
        windows, expected = [], []
        for number, (low, high, replicas) in enumerate(spans):
            opens, closes = middle + low * MINUTE, middle + high * MINUTE
            times = {"from": f"{opens:%H:%M}", "to": f"{closes:%H:%M}"}
            windows.append({"name": f"w{number}", "replicas": replicas, **times})
            expected.append((clock.first_at(opens), clock.after_last_before(closes), replicas))
        pool = WarmPoolSpec.parse({"target": "generate", "timeZone": name, "windows": windows})
        start, end = change - 5 * HOUR, change + 5 * HOUR
        edges = sorted({start, *(edge for span in expected for edge in span[:2])})
        segments = timeline(pool, timedelta(0), start, end)
        for instant in edges:
            for moment in (instant, instant - MINUTE):
                if start <= moment < end:
                    level = max((r for opens, closes, r in expected if opens <= moment < closes), default=0)
                    held = next(s.floor.replicas for s in segments if s.start <= moment < s.end)
                    assert held == level, (name, change, moment)
