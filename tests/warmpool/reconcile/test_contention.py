"""Two controllers that disagree: lowering the same floor again waits longer each time."""

from datetime import timedelta

import pytest

from tests.warmpool.reconcile.builders import NOW
from warmpool.reconcile.contention import FloorLowering, after_writes, back_off
from warmpool.reconcile.planning import FloorWrite, WritePlan

SECOND = timedelta(seconds=1)


def write(min_scale, held, name="r1"):
    return FloorWrite(("default", name), "1", {}, min_scale, held)


@pytest.mark.parametrize(
    ("what", "lowering", "planned", "made"),
    [
        ("never lowered before", None, write(1, 2), True),
        ("a raise", FloorLowering(NOW, 1), write(3, 2), True),
        ("lowered just now, and raised again by another", FloorLowering(NOW, 1), write(1, 2), False),
        ("lowered just now, and further down", FloorLowering(NOW, 2), write(1, 2), True),
        ("lowered half a minute ago", FloorLowering(NOW - 30 * SECOND, 1), write(1, 2), True),
        ("for the third time", FloorLowering(NOW - 119 * SECOND, 1, times=3), write(1, 2), False),
        ("for the third time, long ago", FloorLowering(NOW - 120 * SECOND, 1, times=3), write(1, 2), True),
        ("for the hundredth time", FloorLowering(NOW - 600 * SECOND, 1, times=100), write(1, 2), True),
        ("the clock was set back", FloorLowering(NOW + 5 * SECOND, 1), write(1, 2), True),
    ],
)
def test_when_a_floor_is_lowered_again(what, lowering, planned, made):
    plan = back_off(WritePlan((planned,)), {"r1": lowering} if lowering else {}, NOW)
    assert bool(plan.writes) == made, what
    assert bool(plan.notes) != made


def test_only_the_contended_revision_waits():
    plan = back_off(WritePlan((write(1, 2), write(0, 2, "r2"))), {"r1": FloorLowering(NOW, 1)}, NOW)
    assert [entry.revision[1] for entry in plan.writes] == ["r2"]


@pytest.mark.parametrize(
    ("before", "made", "after"),
    [
        ({}, write(1, 2), {"r1": FloorLowering(NOW, 1)}),
        ({"r1": FloorLowering(NOW - SECOND, 1)}, write(1, 2), {"r1": FloorLowering(NOW, 1, 2)}),
        ({"r1": FloorLowering(NOW - SECOND, 2)}, write(1, 2), {"r1": FloorLowering(NOW, 1)}),
        ({"r1": FloorLowering(NOW - timedelta(hours=1), 1, 5)}, write(1, 2), {"r1": FloorLowering(NOW, 1)}),
        ({"r1": FloorLowering(NOW - SECOND, 1)}, write(3, 2), {}),
        (
            {"r2": FloorLowering(NOW, 1)},
            write(None, 1),
            {"r1": FloorLowering(NOW, 0), "r2": FloorLowering(NOW, 1)},
        ),
    ],
)
def test_what_is_remembered_of_a_write(before, made, after):
    assert after_writes(before, [made], NOW) == after
