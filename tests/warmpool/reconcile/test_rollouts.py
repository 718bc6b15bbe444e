"""The floors of old and new Revisions while a rollout is under way."""

import pytest

from tests.warmpool.reconcile.builders import NO_GPU, revision, service, traffic
from warmpool.reconcile.rollouts import Headroom, shares_during_rollout, shares_during_shift
from warmpool.reconcile.views import KnativeCondition

FOLLOWS = traffic(r1=100, latest="r1")
PLENTY = Headroom()
FAILED = {"Ready": KnativeCondition("False", "ExitCode1", "the container exits")}


def shares(target, revisions, before=None, crowded_out=None, headroom=PLENTY):
    by_name = {view.name: view for view in revisions}
    return shares_during_rollout(before or {"r1": 2}, target, by_name, crowded_out, headroom)


@pytest.mark.parametrize(
    ("what", "target", "revisions", "expected"),
    [
        ("no rollout", service(), [revision("r1")], {"r1": 2}),
        (
            "free GPUs: both hold the floor",
            service(FOLLOWS, created="r2"),
            [revision("r1"), revision("r2")],
            {"r1": 2, "r2": 2},
        ),
        (
            "the new Revision gets no traffic by itself",
            service(traffic(r1=100), created="r2"),
            [revision("r1"), revision("r2")],
            {"r1": 2},
        ),
        (
            "ready, but the Route has not followed yet",
            service(FOLLOWS, created="r2", ready="r2"),
            [revision("r1"), revision("r2")],
            {"r1": 2, "r2": 2},
        ),
        (
            "no free GPU: the old floor makes room",
            service(FOLLOWS, created="r2"),
            [revision("r1"), revision("r2", unschedulable=NO_GPU)],
            {"r1": 1},
        ),
        (
            "only one of its pods waits",
            service(FOLLOWS, created="r2"),
            [revision("r1"), revision("r2", waiting=1)],
            {"r1": 1},
        ),
        (
            "the old Revision waits for GPUs too",
            service(FOLLOWS, created="r2"),
            [revision("r1", unschedulable=NO_GPU), revision("r2")],
            {"r1": 1},
        ),
        (
            "it fails for another reason",
            service(FOLLOWS, created="r2"),
            [revision("r1"), revision("r2", conditions=FAILED)],
            {"r1": 2},
        ),
        (
            "the new Revision is being deleted",
            service(FOLLOWS, created="r2"),
            [revision("r1"), revision("r2", deleting=True)],
            {"r1": 2},
        ),
        ("it is not known yet", service(FOLLOWS, created="r2"), [revision("r1")], {"r1": 2}),
    ],
)
def test_the_floors_during_a_rollout(what, target, revisions, expected):
    assert shares(target, revisions).shares == expected, what


def test_gpus_once_released_stay_free_until_the_new_revision_is_ready():
    target = service(FOLLOWS, created="r2")
    made = shares(target, [revision("r1"), revision("r2", unschedulable=NO_GPU)])
    assert (made.shares, made.crowded_out) == ({"r1": 1}, "r2")
    later = shares(target, [revision("r1"), revision("r2")], crowded_out=made.crowded_out)
    assert (later.shares, later.crowded_out) == ({"r1": 1}, "r2")
    done = shares(
        service(traffic(r2=100, latest="r2"), created="r2", ready="r2"), [revision("r2")], {"r2": 2}, "r2"
    )
    assert (done.shares, done.crowded_out) == ({"r2": 2}, None)


@pytest.mark.parametrize(
    ("before", "own_min_scale", "expected"),
    [
        ({"r1": 4}, None, {"r1": 3}),
        ({"r1": 4}, 2, {"r1": 2}),
        ({"r1": 1}, 3, {"r1": 0}),
        ({"r1": 3, "r0": 1}, None, {"r1": 2, "r0": 1}),
    ],
)
def test_as_much_is_released_as_the_new_revision_needs_to_start(before, own_min_scale, expected):
    own = {"autoscaling.knative.dev/min-scale": str(own_min_scale)} if own_min_scale else {}
    coming = revision("r2", own, unschedulable=NO_GPU)
    found = shares(service(FOLLOWS, created="r2"), [revision("r0"), revision("r1"), coming], before)
    assert found.shares == expected
    assert "r2 cannot be scheduled" in found.note


def test_when_nothing_can_be_released_the_note_gives_the_schedulers_reason():
    coming = revision("r2", unschedulable=NO_GPU)
    found = shares(service(FOLLOWS, created="r2"), [revision("r1"), coming], {"r1": 0})
    assert found.note == f"r2 cannot be scheduled: {NO_GPU}"


def test_without_money_for_both_the_new_revision_gets_its_floor_with_its_traffic():
    target, views = service(FOLLOWS, created="r2"), [revision("r1"), revision("r2")]
    found = shares(target, views, headroom=Headroom(affordable=False))
    assert found.shares == {"r1": 2}
    assert "the budget cannot pay" in found.note


SPLIT = {"r1": 50, "r2": 50}


@pytest.mark.parametrize(
    ("what", "percent", "by_traffic", "held", "headroom", "expected"),
    [
        ("75/25 to 50/50", SPLIT, (2, 2), (3, 1), Headroom({"r1": 3, "r2": 1}), (3, 2)),
        ("and when the other is ready", SPLIT, (2, 2), (3, 2), Headroom({"r1": 3, "r2": 2}), (2, 2)),
        ("by two at once", SPLIT, (2, 2), (4, 0), Headroom({"r1": 4, "r2": 0}), (4, 2)),
        ("one of two is ready", SPLIT, (2, 2), (4, 2), Headroom({"r1": 4, "r2": 1}), (3, 2)),
        ("what shrinks is not ready either", SPLIT, (2, 2), (3, 1), Headroom({"r1": 2, "r2": 1}), (2, 2)),
        ("no free GPU", SPLIT, (2, 2), (3, 1), Headroom({"r1": 3, "r2": 1}, frozenset({"r2"})), (2, 2)),
        ("no money", SPLIT, (2, 2), (3, 1), Headroom({"r1": 3, "r2": 1}, affordable=False), (2, 2)),
        ("no traffic any more", {"r1": 0, "r2": 100}, (0, 4), (1, 3), Headroom({"r1": 1, "r2": 3}), (0, 4)),
        ("the floor falls", SPLIT, (1, 1), (2, 2), Headroom({"r1": 2, "r2": 2}), (1, 1)),
        ("the floor rises", SPLIT, (2, 2), (1, 1), Headroom({"r1": 1, "r2": 1}), (2, 2)),
        ("nothing is held yet", SPLIT, (2, 2), (0, 0), Headroom({"r1": 3, "r2": 0}), (2, 2)),
    ],
)
def test_a_changed_split_moves_make_before_break(what, percent, by_traffic, held, headroom, expected):  # noqa: PLR0917
    target = service(traffic(**percent))
    named = dict(zip(("r1", "r2"), by_traffic, strict=True))
    found = shares_during_shift(named, target, dict(zip(("r1", "r2"), held, strict=True)), headroom)
    assert tuple(found.values()) == expected, what
