"""What a hot replica should do next: a pure decision from what is known of it at an instant.

`supervisor` asks a few times per second and acts. Instants and durations are seconds on one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from functions.lifecycle import Warmth


@dataclass(frozen=True, slots=True)
class SupervisionLimits:
    """Time limits and counts of supervision; durations in seconds."""

    idle: float | None = None
    """Time without a request after which a hot replica returns to its resting warmth; None for never."""
    stall: float = 60.0
    """Time without output after which an engine with requests is probed."""
    probe: float = 10.0
    """Time that an engine has to answer a probe before it is replaced."""
    turn: float = 30.0
    """Time for which a busy replica may keep a device that others wait for."""
    crashes: int = 3
    """Crashes within `crash_window`, without an answer in between, after which the replica has failed."""
    crash_window: float = 120.0


@dataclass(frozen=True, slots=True)
class HotStatus:
    """What is known of a hot replica at an instant."""

    resting_warmth: Warmth
    """Where it returns when it is idle."""
    in_use: int
    """Requests that use the engine."""
    lowering_requested: bool
    """It was told to return to its resting warmth as soon as it is idle."""
    last_used: float
    """Instant at which a request last began or ended."""
    last_output: float
    """Instant at which the engine last sent anything."""
    hot_since: float
    others_waiting: bool = False
    """Another replica waits for the device of this one."""


class Action(StrEnum):
    """What to do."""

    NONE = "none"
    LOWER = "lower"
    """It is idle: return to the resting warmth."""
    YIELD_DEVICE = "yield-device"
    """Its turn on the device is over: admit no new request, and lower when the last one has ended."""
    PROBE = "probe"
    """It may have stalled: ask it, and replace it if it does not answer."""


def next_action(status: HotStatus, limits: SupervisionLimits, now: float) -> Action:
    """Decide. A replica that rests hot keeps its device, which is its own."""
    if status.in_use and now - max(status.last_output, status.last_used) >= limits.stall:
        return Action.PROBE
    if status.resting_warmth is Warmth.HOT:
        return Action.NONE
    if status.in_use:
        over = status.others_waiting and now - status.hot_since >= limits.turn
        return Action.YIELD_DEVICE if over else Action.NONE
    idle = limits.idle is not None and now - status.last_used >= limits.idle
    return Action.LOWER if status.others_waiting or status.lowering_requested or idle else Action.NONE


def is_crash_looping(crashes: tuple[float, ...], limits: SupervisionLimits, now: float) -> bool:
    """Whether an engine that crashed at these instants, with no answer in between, is given up."""
    return len([at for at in crashes if now - at <= limits.crash_window]) >= limits.crashes
