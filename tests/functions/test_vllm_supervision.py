"""What a hot replica decides to do next, and when an engine that crashes is given up."""

import dataclasses

import pytest

from functions.engines.vllm.supervision import (
    Action,
    HotStatus,
    SupervisionLimits,
    is_crash_looping,
    next_action,
)
from functions.lifecycle import Warmth

LIMITS = SupervisionLimits(idle=10, stall=60, probe=5, turn=30, crashes=3, crash_window=120)
IDLE = HotStatus(
    resting_warmth=Warmth.STANDBY,
    in_use=0,
    lowering_requested=False,
    last_used=100,
    last_output=100,
    hot_since=50,
)
BUSY = dataclasses.replace(IDLE, in_use=2)
HOT = {"resting_warmth": Warmth.HOT}
WAITED_FOR = {"others_waiting": True}
LOWER = {"lowering_requested": True}


@pytest.mark.parametrize(
    ("case", "status", "changes", "now", "action"),
    [
        ("idle, but not long enough", IDLE, {}, 109.9, Action.NONE),
        ("idle long enough", IDLE, {}, 110, Action.LOWER),
        ("idle on a device of its own", IDLE, HOT | WAITED_FOR, 1e9, Action.NONE),
        ("idle on a device that others wait for", IDLE, WAITED_FOR, 100, Action.LOWER),
        ("idle and told to lower", IDLE, LOWER, 100, Action.LOWER),
        ("busy and told to lower", BUSY, LOWER, 100, Action.NONE),
        ("busy within its turn", BUSY, WAITED_FOR | {"last_output": 79}, 79.9, Action.NONE),
        ("busy at the end of its turn", BUSY, WAITED_FOR | {"last_output": 80}, 80, Action.YIELD_DEVICE),
        ("busy with nobody waiting", BUSY, {"last_output": 1000}, 1000, Action.NONE),
        ("busy on its own device", BUSY, WAITED_FOR | HOT | {"last_output": 1000}, 1000, Action.NONE),
        ("silent, but not long enough", BUSY, {}, 159.9, Action.NONE),
        ("silent long enough", BUSY, {}, 160, Action.PROBE),
        ("silent long enough, resting hot", BUSY, HOT, 160, Action.PROBE),
        ("silent after output", BUSY, {"last_output": 101}, 160, Action.NONE),
        ("silent after a request began", BUSY, {"last_used": 101}, 160, Action.NONE),
        ("silent without requests", IDLE, HOT, 1e9, Action.NONE),
    ],
)
def test_what_a_hot_replica_does_next(case, status, changes, now, action):
    assert next_action(dataclasses.replace(status, **changes), LIMITS, now) is action, case


def test_a_replica_without_an_idle_limit_stays_hot():
    assert next_action(IDLE, dataclasses.replace(LIMITS, idle=None), 1e9) is Action.NONE


@pytest.mark.parametrize(
    ("crashes", "now", "given_up"),
    [
        ((), 0, False),
        ((1, 2), 3, False),
        ((1, 2, 3), 3, True),
        ((1, 2, 121), 121, True),
        ((1, 2, 122), 122, False),
        ((1, 150, 151), 151, False),
    ],
)
def test_three_crashes_within_the_window_are_given_up(crashes, now, given_up):
    assert is_crash_looping(crashes, LIMITS, now) is given_up
