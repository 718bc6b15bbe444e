"""What a replica with an engine should do next: a pure step from what is known and an instant.

The ladder looks a few times per second and does what it says; every number is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from functions.lifecycle import Warmth


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give something up, in seconds."""

    idle: float | None = None
    """A hot replica without a request goes back to its resting rung after this; None for never."""
    stall: float = 60.0
    """An engine with requests that says nothing for so long is asked whether it is still there."""
    probe: float = 10.0
    """How long it may take to answer that."""
    turn: float = 30.0
    """How long a busy replica may keep a device that others wait for."""
    crashes: int = 3
    """Deaths in a row without an answer in between, within `crash_window`, that fail the replica."""
    crash_window: float = 120.0


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a hot replica at an instant."""

    rest: Warmth
    """Where it goes when nobody needs it."""
    in_use: int
    """Requests that hold the engine."""
    ordered_down: bool
    """It was told to go to its resting rung as soon as it can."""
    last_used: float
    """Instant at which the last request began or ended."""
    last_heard: float
    """Instant at which the engine last said anything."""
    hot_since: float
    others_waiting: bool = False
    """Another replica waits for this one's device."""


class Move(StrEnum):
    """What to do."""

    STAY = "stay"
    LOWER = "lower"
    """Nobody uses it: go to the resting rung."""
    YIELD = "yield"
    """Its turn on the device is over: let no new request in, and go down when the last one has ended."""
    PROBE = "probe"
    """It may have stalled: ask it."""


def next_move(view: View, patience: Patience, now: float) -> Move:
    """Decide. A replica that rests hot never leaves a device to others: it was given to it alone."""
    if view.in_use and now - max(view.last_heard, view.last_used) >= patience.stall:
        return Move.PROBE
    if view.rest is Warmth.HOT:
        return Move.STAY
    if view.in_use:
        over = view.others_waiting and now - view.hot_since >= patience.turn
        return Move.YIELD if over else Move.STAY
    idle = patience.idle is not None and now - view.last_used >= patience.idle
    return Move.LOWER if view.others_waiting or view.ordered_down or idle else Move.STAY


def is_hopeless(deaths: tuple[float, ...], patience: Patience, now: float) -> bool:
    """Whether an engine that died at these instants, with no answer in between, should not be tried again."""
    return len([at for at in deaths if now - at <= patience.crash_window]) >= patience.crashes
