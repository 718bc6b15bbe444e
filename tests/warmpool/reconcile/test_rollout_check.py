"""Whether a floor has taken effect: wake-up requests, direct writes, short capacity, measured cold starts."""

from datetime import timedelta

import pytest

from tests.warmpool.reconcile.builders import MIN, NO_GPU, NOW, autoscaler, held, revision
from warmpool.reconcile.rollout_check import RolloutProgress, check
from warmpool.reconcile.views import KnativeCondition

SECOND = timedelta(seconds=1)
COLD = timedelta(seconds=60)
HELD = revision(annotations=held(written=2))


def checked(progress=None, *, share=2, of=HELD, scale=None, at=NOW):
    return check(progress or RolloutProgress(), share, of, scale, now=at, cold_start=COLD)


def copied(**changes):
    """A PodAutoscaler that has the Revision's min-scale."""
    return autoscaler(min_scale=2, **changes)


def test_without_a_pod_autoscaler_nothing_is_known():
    assert checked(scale=None).progress == RolloutProgress()


def test_a_floor_that_is_held_needs_nothing():
    status = checked(scale=copied(desired=2, actual=2))
    assert (status.wake, status.autoscaler_min_scale, status.short, status.check_again) == (
        False,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("what", "progress", "scale", "wake"),
    [
        ("only just behind", RolloutProgress(), copied(), False),
        ("behind for ten seconds", RolloutProgress(behind_since=NOW - 10 * SECOND), copied(), True),
        (
            "woken already",
            RolloutProgress(behind_since=NOW - 20 * SECOND, wakes=1, woken_at=NOW - 10 * SECOND),
            copied(),
            False,
        ),
        (
            "woken twenty seconds ago",
            RolloutProgress(behind_since=NOW - 40 * SECOND, wakes=1, woken_at=NOW - 20 * SECOND),
            copied(),
            True,
        ),
        (
            "woken often",
            RolloutProgress(behind_since=NOW - 4000 * SECOND, wakes=9, woken_at=NOW - 299 * SECOND),
            copied(),
            False,
        ),
        ("the autoscaler wants enough", RolloutProgress(behind_since=NOW - COLD), copied(desired=2), False),
        ("the annotation has not arrived", RolloutProgress(behind_since=NOW - COLD), autoscaler(), False),
    ],
)
def test_when_a_wake_up_request_is_sent(what, progress, scale, wake):
    assert checked(progress, scale=scale).wake == wake, what


@pytest.mark.parametrize(
    ("what", "progress", "scale", "of", "written"),
    [
        ("just written", RolloutProgress(), autoscaler(), HELD, None),
        ("for ten seconds", RolloutProgress(unlike_since=NOW - 10 * SECOND), autoscaler(), HELD, 2),
        ("it arrived", RolloutProgress(unlike_since=NOW - 10 * SECOND), copied(), HELD, None),
        (
            "the HorizontalPodAutoscaler scales it",
            RolloutProgress(unlike_since=NOW - 10 * SECOND),
            autoscaler(),
            revision(annotations=held(written=2), class_hpa=True),
            None,
        ),
    ],
)
def test_when_min_scale_is_written_on_the_pod_autoscaler(what, progress, scale, of, written):
    assert checked(progress, scale=scale, of=of).autoscaler_min_scale == written, what


ACTIVATING = KnativeCondition("Unknown", "Queued")


@pytest.mark.parametrize(
    ("what", "since", "of", "scale", "short"),
    [
        ("a usual start", 60, HELD, copied(desired=2, actual=1), None),
        ("longer than 1.5 cold starts and 30 s", 120, HELD, copied(desired=2, actual=1), "after 120 s"),
        (
            "the PodAutoscaler gives a reason",
            120,
            HELD,
            copied(desired=2, actual=0, active=ACTIVATING),
            "0 of 2 replicas of r1 are ready after 120 s (Queued)",
        ),
        (
            "the scheduler finds no node",
            0,
            revision(annotations=held(written=2), unschedulable=NO_GPU),
            copied(desired=2, actual=1),
            f"1 of 2 replicas of r1 are ready: {NO_GPU}",
        ),
        (
            "one pod waits beside a ready one",
            0,
            revision(annotations=held(written=2), waiting=1),
            copied(desired=2, actual=1),
            f"1 of 2 replicas of r1 are ready: {NO_GPU}",
        ),
        ("nobody wants them yet", 500, HELD, copied(desired=1, actual=1), None),
    ],
)
def test_when_capacity_is_short(what, since, of, scale, short):
    progress = RolloutProgress(short_since=NOW - since * SECOND)
    found = checked(progress, of=of, scale=scale).short
    assert found is None if short is None else short in found, what


def test_a_users_higher_min_scale_counts_as_the_goal():
    own = revision(annotations={MIN: "5"})
    progress = RolloutProgress(short_since=NOW - 500 * SECOND)
    scale = autoscaler(min_scale=5, desired=5, actual=2)
    assert "2 of 5" in checked(progress, of=own, scale=scale).short


def follow(*readings, of=HELD):
    """Check at (seconds, desired, actual) in turn; the cold starts that ended."""
    progress, started = RolloutProgress(), []
    for seconds, wanted, actual in readings:
        status = checked(
            progress, of=of, scale=copied(desired=wanted, actual=actual), at=NOW + seconds * SECOND
        )
        progress = status.progress
        started += [status.started] if status.started else []
    return [start.seconds for start in started]


@pytest.mark.parametrize(
    ("readings", "seconds"),
    [
        ([(0, 2, 0), (42, 2, 2)], [42.0]),
        ([(0, 2, 0), (30, 2, 1), (42, 2, 2)], [42.0]),
        ([(0, 2, 2), (10, 2, 2)], []),
        ([(0, 2, 0), (30, 0, 0), (60, 0, 0)], []),  # no longer wanted
        ([(0, 1, 0), (20, 1, 1), (40, 2, 1), (50, 2, 2)], [20.0, 10.0]),
        ([(0, 3, 1), (42, 3, 3)], [42.0]),
    ],
)
def test_a_cold_start_lasts_from_wanted_to_ready(readings, seconds):
    assert follow(*readings) == seconds


def test_a_start_that_waited_for_a_gpu_is_not_measured():
    waiting = revision(annotations=held(written=2), waiting=1)
    assert follow((0, 2, 0), (3600, 2, 2), of=waiting) == []


def test_a_clock_set_back_starts_every_measurement_anew():
    progress = RolloutProgress(behind_since=NOW + COLD, start_since=NOW + COLD, short_since=NOW + COLD)
    status = checked(progress, scale=copied(desired=1, actual=0))
    assert (status.progress.behind_since, status.progress.start_since) == (NOW, NOW)
    assert status.wake is False


@pytest.mark.parametrize(
    ("scale", "after"),
    [
        (autoscaler(), 10),  # for the annotation to arrive
        (copied(desired=0), 10),  # for the autoscaler to follow
        (copied(desired=2, actual=0), 3),  # for the scheduler
    ],
)
def test_when_to_check_again(scale, after):
    assert checked(scale=scale).check_again == NOW + after * SECOND
