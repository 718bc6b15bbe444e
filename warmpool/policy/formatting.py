"""Instants as local time of the pool, for the details of decisions."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo


def format_instant(instant: datetime, now: datetime, zone: ZoneInfo) -> str:
    """`19:00` when it is today in that zone, `Mon 30 Nov 07:58` otherwise."""
    local = instant.astimezone(zone)
    same_day = local.date() == now.astimezone(zone).date()
    seconds = ":%S" if local.second else ""
    return local.strftime(f"%H:%M{seconds}" if same_day else f"%a %d %b %H:%M{seconds}")
