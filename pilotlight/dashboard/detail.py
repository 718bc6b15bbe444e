"""What the dashboard shows of one Service beside the overview: why, what comes, starts by phase (pure)."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pilotlight.dashboard.history import COLUMNS, Start
from warmpool import explanation
from warmpool.reconcile import parsing

DAYS = 7
_PHASES = ("queue", "schedule", "restore", "import", "device", "weights", "init", "warmup", "prefill")
"""In the order in which they usually come."""


def detail(
    pool: Mapping[str, Any] | None,
    points: Sequence[Sequence[float | None]],
    starts: Sequence[Start],
    now: datetime,
) -> dict[str, Any]:
    """One Service in depth; JSON values only.

    Args:
        pool: its WarmPool; None: it has none.
        points: its last hour, rows as `COLUMNS`.
        starts: its latest starts.
        now: the instant.
    """
    return {
        "columns": list(COLUMNS),
        "points": [list(row) for row in points],
        "explanation": [] if pool is None else explanation.explanation(pool, now, DAYS),
        "rules": [] if pool is None else list((pool.get("status") or {}).get("rules") or ()),
        "calendar": None if pool is None else calendar(pool, now),
        "medians": [] if pool is None else _medians(pool),
        "starts": [_start(start) for start in starts],
    }


def calendar(pool: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
    """The schedule's floor in the days ahead, day by day in the pool's time zone; None for an invalid pool.

    Each day has parts `[from, to, replicas, floor, reason]`, hours of its local clock.
    """
    spec = parsing.parse_pool(pool).spec
    if spec is None:
        return None
    changes = explanation.changes(spec, explanation.lead_of(pool), now, DAYS)
    zone = spec.zone
    edges = [change.at.astimezone(zone) for change in changes]
    first = now.astimezone(zone).date()
    days = []
    for offset in range(DAYS):
        date = first + timedelta(days=offset)
        parts: list[list[Any]] = []
        for index, change in enumerate(changes):
            begin = edges[index]
            end = edges[index + 1] if index + 1 < len(edges) else None
            if begin.date() > date or (end is not None and end.date() < date):
                continue
            left = _hour(begin) if begin.date() == date else 0.0
            right = _hour(end) if end is not None and end.date() == date else 24.0
            if right > left and change.floor.replicas:
                parts.append([left, right, change.floor.replicas, str(change.floor), change.reason])
        days.append({"date": date.isoformat(), "parts": parts})
    return {"timeZone": spec.time_zone, "now": _hour(now.astimezone(zone)), "days": days}


def _hour(instant: datetime) -> float:
    return round(instant.hour + instant.minute / 60 + instant.second / 3600, 4)


def _medians(pool: Mapping[str, Any]) -> list[list[Any]]:
    phases = ((pool.get("status") or {}).get("coldStart") or {}).get("phases") or {}
    return _ordered({name: _seconds(text) for name, text in phases.items()})


def _seconds(text: object) -> float | None:
    try:
        return float(str(text).removesuffix("s"))
    except ValueError:
        return None


def _ordered(phases: Mapping[str, float | None]) -> list[list[Any]]:
    def place(name: str) -> tuple[int, str]:
        return (_PHASES.index(name) if name in _PHASES else len(_PHASES), name)

    return [
        [name, round(seconds, 3)]
        for name in sorted(phases, key=place)
        if (seconds := phases[name]) is not None
    ]


def _start(start: Start) -> dict[str, Any]:
    return {
        "pod": start.pod,
        "readyAt": start.ready_at.isoformat(),
        "seconds": round(start.seconds, 3),
        "phases": _ordered(start.phases),
    }
