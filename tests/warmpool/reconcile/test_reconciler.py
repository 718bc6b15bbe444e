"""One reconciliation of one pool: what is decided, refused and released."""

from datetime import timedelta

import pytest

from tests.warmpool.reconcile.builders import (
    ALWAYS,
    NO_GPU,
    NOW,
    autoscaler,
    held,
    invalid_pool,
    pool,
    revision,
    service,
    snapshot,
    traffic,
)
from warmpool.domain.cold_start import ColdStartStats
from warmpool.domain.observation import Demand, Hold
from warmpool.reconcile import reconciler
from warmpool.reconcile.planning import AutoscalerWrite
from warmpool.reconcile.rollout_check import RolloutProgress
from warmpool.reconcile.state import PoolState, WarmthTarget
from warmpool.reconcile.transition import describe, no_effects

SECOND = timedelta(seconds=1)
HELD = {
    "revisions": [revision(annotations=held())],
    "autoscalers": [autoscaler(desired=2, actual=2, min_scale=2)],
}


def reconciled(of=None, state=None, *, at=NOW, **known):
    known = {"target": service(), "revisions": [revision()], "autoscalers": [autoscaler()], **known}
    return reconciler.reconcile(snapshot(of, **known), state or PoolState(), at)


def conditions(result):
    status = describe(result, PoolState(), no_effects(PoolState())).status
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}


def message(result, kind):
    status = describe(result, PoolState(), no_effects(PoolState())).status
    return next(entry["message"] for entry in status["conditions"] if entry["type"] == kind)


def test_a_floor_is_decided_and_planned():
    result = reconciled()
    assert (result.decision.floor.replicas, result.plan.shares) == (2, {"r1": 2})
    assert [write.min_scale for write in result.plan.writes] == [2]


@pytest.mark.parametrize(
    ("what", "spec", "known", "expected"),
    [
        ("held", None, HELD, ("True", "FloorHeld")),
        ("starting", None, {"autoscalers": [autoscaler(desired=2, actual=1)]}, ("Unknown", "Raising")),
        ("no window", {"windows": []}, {}, ("True", "NothingToHold")),
        ("disabled", {"enabled": False}, {}, ("True", "Disabled")),
        ("no traffic", None, {"target": service(traffic())}, ("Unknown", "NoTraffic")),
        ("no Service", None, {"target": None}, ("False", "TargetMissing")),
        (
            "a Service that is being deleted",
            None,
            {"target": service(deleting=True)},
            ("False", "TargetMissing"),
        ),
        ("an older pool", None, {"effective_pool": pool(name="older")}, ("False", "TargetTaken")),
        (
            "no free GPU",
            None,
            {
                "revisions": [revision(annotations=held(), unschedulable=NO_GPU)],
                "autoscalers": [autoscaler(desired=2, actual=1, min_scale=2)],
            },
            ("False", "CapacityShort"),
        ),
    ],
)
def test_the_condition_ready(what, spec, known, expected):
    assert conditions(reconciled(pool(spec), **known))["Ready"] == expected, what


def test_an_invalid_spec_and_a_fault_of_the_controller_are_conditions_too():
    assert conditions(reconciled(invalid_pool(), target=None))["Ready"] == ("False", "InvalidSpec")
    failed = reconciler.failed(pool(), PoolState(), "KeyError('x')", NOW)
    assert conditions(failed)["Ready"] == ("False", "InternalError")
    assert failed.plan.writes == ()


@pytest.mark.parametrize(
    ("what", "of", "known", "released"),
    [
        ("being deleted", pool(deleting=True), {}, True),
        ("an older pool has the target", pool(), {"effective_pool": pool(name="older")}, True),
        ("no such Service", pool(), {"target": None}, True),
        ("an invalid spec", invalid_pool(), {"target": None}, False),
        ("an invalid spec, being deleted", invalid_pool(deleting=True), {"target": None}, True),
    ],
)
def test_a_refused_pool_gives_its_floor_back_unless_only_its_spec_is_invalid(what, of, known, released):
    assert bool(reconciled(of, **HELD, **known).plan.writes) == released, what


def test_a_refused_pool_leaves_the_floors_of_others_alone():
    others = {"revisions": [revision(annotations=held(pool="older"))], "effective_pool": pool(name="older")}
    scales = [autoscaler(desired=2, actual=2, written_by="older")]
    result = reconciled(**others, autoscalers=scales)
    assert (result.plan.writes, result.autoscaler_writes) == ((), ())


def test_a_pool_with_an_invalid_spec_releases_its_floor_when_that_expires():
    views = [revision(annotations=held(expires=NOW + 60 * SECOND))]
    result = reconciled(invalid_pool(), target=None, revisions=views)
    assert (result.plan.writes, result.next_at) == ((), NOW + 60 * SECOND)
    assert result.report.held == 2
    later = reconciled(invalid_pool(), target=None, revisions=views, at=NOW + 60 * SECOND)
    assert [write.min_scale for write in later.plan.writes] == [None]


def test_the_finalizer_is_added_first_and_removed_when_everything_is_given_back():
    assert reconciled(pool(finalized=False)).add_finalizer
    assert not reconciled().add_finalizer
    assert not reconciled(pool(deleting=True), **HELD).remove_finalizer
    assert reconciled(pool(deleting=True)).remove_finalizer
    assert not reconciled(pool(deleting=True, finalized=False)).remove_finalizer


def test_a_pod_autoscaler_that_does_not_follow_is_written_and_given_back():
    lagging = PoolState(rollouts={"r1": RolloutProgress(unlike_since=NOW - 10 * SECOND)})
    known = {**HELD, "autoscalers": [autoscaler()]}
    assert reconciled(state=lagging, **known).autoscaler_writes == (AutoscalerWrite("r1", 2, "p"),)
    written = {"autoscalers": [autoscaler(min_scale=2, written_by="p")]}
    assert reconciled(pool({"windows": []}), **written).autoscaler_writes == (
        AutoscalerWrite("r1", None, None),
    )


@pytest.mark.parametrize(
    ("what", "spec", "ready", "target"),
    [
        ("all hot", {"windows": [ALWAYS]}, 2, None),
        ("standby", {"windows": [{**ALWAYS, "warmth": "standby"}]}, 2, 2),
        ("nobody there yet", {"windows": [{**ALWAYS, "warmth": "standby"}]}, 0, None),
        (
            "a hot and a standby window",
            {"windows": [ALWAYS, {**ALWAYS, "name": "b", "warmth": "standby"}]},
            1,
            1,
        ),
    ],
)
def test_whether_replicas_are_ordered_to_a_warmth(what, spec, ready, target):
    result = reconciled(pool(spec), autoscalers=[autoscaler(desired=2, actual=ready)])
    expected = WarmthTarget(result.decision.floor, target) if target else None
    assert result.warmth == expected, what


COLD = ColdStartStats(timedelta(seconds=500), timedelta(seconds=500), 9)


@pytest.mark.parametrize(
    ("what", "spec", "known", "words"),
    [
        ("demand", {"keepAlive": "10m"}, {"demand_error": "Prometheus is away"}, "Prometheus is away"),
        ("demand is missing", {"keepAlive": "10m"}, {}, "no reading of demand"),
        ("history", None, {"history_error": "the disk is full"}, "the disk is full"),
        ("max-scale", None, {"revisions": [revision(max_scale=1)]}, "max-scale 1"),
        ("progress deadline", None, {"cold_starts": COLD}, "the progress deadline is 600 s"),
        ("timeout", None, {"cold_starts": COLD}, "requests time out after 300 s"),
    ],
)
def test_what_degrades_a_pool_without_lowering_its_floor(what, spec, known, words):
    result = reconciled(pool(spec), **known)
    assert conditions(result)["Degraded"] == ("True", "Problems"), what
    assert words in message(result, "Degraded")


def test_nothing_degrades_a_pool_that_is_as_it_should_be():
    result = reconciled(**HELD, demand=Demand(0.0))
    assert conditions(result)["Degraded"] == ("False", "AsExpected")
    assert conditions(result)["CapacityShort"] == ("False", "Enough")
    assert conditions(result)["BudgetExceeded"] == ("False", "WithinBudget")


def test_an_exhausted_budget_is_a_condition_with_its_rule_as_reason():
    result = reconciled(pool({"windows": [ALWAYS], "limits": {"budget": {"amount": 0}}}))
    assert conditions(result)["BudgetExceeded"] == ("True", "BudgetExhausted")
    assert result.decision.floor.replicas == 0


def test_a_budget_without_a_price_allows_no_floor():
    limited = pool({"windows": [ALWAYS], "limits": {"budget": {"amount": 9}}})
    result = reconciled(limited, target=service(gpu="nobody-sells-it"))
    assert conditions(result)["BudgetExceeded"] == ("True", "BudgetUncountable")


@pytest.mark.parametrize(
    ("what", "of", "known", "after"),
    [
        ("the window's end", pool({"windows": [{**ALWAYS, "to": "13:00"}]}), HELD, timedelta(hours=1)),
        ("a hold's end", pool(hold=Hold(3, NOW + 90 * SECOND)), HELD, 90 * SECOND),
        ("a start to be checked", pool(), {"revisions": [revision(annotations=held())]}, 10 * SECOND),
    ],
)
def test_when_the_next_reconciliation_is_due(what, of, known, after):
    assert reconciled(of, **known).next_at == NOW + after, what


def test_the_next_change_and_revisions_are_reported():
    shares = traffic(r1=50, r2=50)
    result = reconciled(
        pool({"windows": [{**ALWAYS, "to": "13:00"}]}),
        target=service(shares),
        revisions=[revision("r1", held(written=1)), revision("r2"), revision("r0")],
        autoscalers=[autoscaler("r1", desired=1, actual=1, written_by="p"), autoscaler("r2")],
    )
    assert (result.report.next_change.at, result.report.next_change.floor.replicas) == (
        NOW + timedelta(hours=1),
        0,
    )
    shown = [
        (entry.name, entry.percent, entry.floor, entry.min_scale, entry.ready)
        for entry in result.report.revisions
    ]
    assert shown == [("r1", 50, 1, 1, 1), ("r2", 50, 1, 1, 0)]
    assert [entry.via for entry in result.report.revisions] == ["PodAutoscaler", "Revision"]
