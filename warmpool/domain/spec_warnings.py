"""What is valid in a WarmPool and probably a mistake, as `kubectl apply` and `pool explain` say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from warmpool.domain.date_ranges import DateRange, Dates, YearlyRange
from warmpool.domain.local_time import closing, local_date
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.schedule_exceptions import SpanException
from warmpool.domain.time_zones import zone_warning
from warmpool.domain.windows import CronWindow, DatedWindow, SpanWindow, WeeklyWindow

_DAY_MINUTES = 24 * 60


def spec_warnings(spec: WarmPoolTemplate, now: datetime) -> list[str]:
    """One line per finding, each beginning with the field: `spec.timeZone: ...`."""
    return [
        *_time_zone(spec),
        *_windows(spec, now),
        *_exceptions(spec, now),
    ]


def _time_zone(spec: WarmPoolTemplate) -> Iterator[str]:
    warning = zone_warning(spec.time_zone)
    if warning is not None:
        yield f"spec.timeZone: {warning}"


def _windows(spec: WarmPoolTemplate, now: datetime) -> Iterator[str]:
    most = spec.limits.max
    for index, window in enumerate(spec.windows):
        field = f"spec.windows[{index}] ({window.name})"
        if isinstance(window, DatedWindow):
            yield from _dates(spec, window.dates, now, field)
        elif isinstance(window, SpanWindow) and closing(window.end, spec.zone) <= now:
            yield f"{field}: ended at {window.end:%Y-%m-%dT%H:%M}"
        elif isinstance(window, CronWindow) and _never_closes(window):
            yield (
                f"{field}: its firings run together, so that it never closes on a day on which it fires; "
                'a window from "00:00" to "24:00" says the same'
            )
        if most is not None and window.replicas > most:
            yield f"{field}: limits.max = {most} allows fewer than its {window.replicas} replicas"


def _never_closes(window: CronWindow) -> bool:
    spans = window.schedule.daily_spans(window.duration)
    minutes = int(window.duration / timedelta(minutes=1))
    return (
        len(spans) == 1
        and spans[0][0] == 0
        and spans[0][1] + minutes >= _DAY_MINUTES
        and minutes < _DAY_MINUTES
    )


def _exceptions(spec: WarmPoolTemplate, now: datetime) -> Iterator[str]:
    for index, exception in enumerate(spec.exceptions):
        field = f"spec.exceptions[{index}] ({exception.name})"
        if isinstance(exception, SpanException):
            if closing(exception.end, spec.zone) <= now:
                yield f"{field}: ended at {exception.end:%Y-%m-%dT%H:%M}"
            continue
        if exception.has_hours and not exception.replicas:
            yield (
                f"{field}: from and to have no effect without replicas: the whole day is closed; give "
                "replicas for the hours that stay open, or start and end for a part of a day"
            )
        if exception.has_hours and exception.replicas > _usual_replicas(spec) > 0:
            yield (
                f"{field}: closes the windows for the rest of its days; to hold more replicas for some hours "
                "in addition to them, use a window with dates"
            )
        if exception.holidays is None:
            yield from _dates(spec, exception.dates, now, field)


def _usual_replicas(spec: WarmPoolTemplate) -> int:
    """The most replicas of a window that an exception closes."""
    usual = (window for window in spec.windows if isinstance(window, WeeklyWindow | CronWindow))
    return max((window.replicas for window in usual), default=0)


def _dates(spec: WarmPoolTemplate, dates: Dates, now: datetime, field: str) -> Iterator[str]:
    today = local_date(now, spec.zone)
    if all(isinstance(item, DateRange) and item.last < today - timedelta(days=1) for item in dates):
        yield f"{field}: all its dates have passed"
    for item in dates:
        if isinstance(item, YearlyRange) and item.first == item.last == (2, 29):
            yield f"{field}: 02-29 is a day of leap years only"
