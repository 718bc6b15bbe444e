"""What a hot replica decides to do next."""

import dataclasses

import pytest

from functions.engines.vllm.supervision import Move, Patience, View, is_hopeless, next_move
from functions.lifecycle import Warmth

PATIENCE = Patience(idle=10, stall=60, probe=5, turn=30, crashes=3, crash_window=120)
IDLE = View(rest=Warmth.STANDBY, in_use=0, ordered_down=False, last_used=100, last_heard=100, hot_since=50)
BUSY = dataclasses.replace(IDLE, in_use=2)


def _move(view: View, now: float, **changes) -> Move:
    return next_move(dataclasses.replace(view, **changes), PATIENCE, now)


def test_it_stays_until_it_has_idled_long_enough():
    assert _move(IDLE, 109.9) is Move.STAY
    assert _move(IDLE, 110) is Move.LOWER


def test_it_never_idles_down_from_a_rung_that_is_its_own():
    assert _move(IDLE, 1e9, rest=Warmth.HOT, others_waiting=True) is Move.STAY


def test_without_an_idle_time_it_stays_for_ever():
    assert next_move(IDLE, dataclasses.replace(PATIENCE, idle=None), 1e9) is Move.STAY


def test_an_idle_replica_gives_its_device_to_who_waits_at_once():
    assert _move(IDLE, 100, others_waiting=True) is Move.LOWER


def test_an_order_down_is_followed_when_nobody_uses_it():
    assert _move(IDLE, 100, ordered_down=True) is Move.LOWER
    assert _move(BUSY, 100, ordered_down=True) is Move.STAY


def test_a_busy_replica_yields_when_its_turn_is_over_and_others_wait():
    assert _move(BUSY, 79, others_waiting=True, last_heard=79) is Move.STAY
    assert _move(BUSY, 80, others_waiting=True, last_heard=80) is Move.YIELD
    assert _move(BUSY, 1000, others_waiting=False, last_heard=1000) is Move.STAY
    assert _move(BUSY, 1000, others_waiting=True, last_heard=1000, rest=Warmth.HOT) is Move.STAY


@pytest.mark.parametrize("rest", [Warmth.HOT, Warmth.STANDBY])
def test_a_silent_engine_with_requests_is_probed_whatever_it_rests_on(rest):
    assert _move(BUSY, 159.9, rest=rest) is Move.STAY
    assert _move(BUSY, 160, rest=rest) is Move.PROBE
    assert _move(BUSY, 160, rest=rest, last_heard=101) is Move.STAY
    assert _move(BUSY, 160, rest=rest, last_used=101) is Move.STAY


def test_three_deaths_in_the_window_are_hopeless_and_two_are_not():
    assert not is_hopeless((1, 2), PATIENCE, 3)
    assert is_hopeless((1, 2, 3), PATIENCE, 3)
    assert not is_hopeless((1, 150, 151), PATIENCE, 151)
