"""Status, events and the next state, once it is known what the API accepted."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.warmpool.reconcile.builders import (
    ALWAYS,
    NOW,
    autoscaler,
    held,
    pool,
    revision,
    service,
    snapshot,
)
from warmpool.domain.floor import NOTHING, Floor
from warmpool.reconcile import reconciler
from warmpool.reconcile.contention import FloorLowering
from warmpool.reconcile.planning import FloorWrite
from warmpool.reconcile.state import Announcement, PoolState, WarmthTarget
from warmpool.reconcile.transition import (
    EffectResults,
    RetryPolicy,
    describe,
    has_effects,
    next_state,
    no_effects,
)

SECOND = timedelta(seconds=1)
RETRY = RetryPolicy(SECOND, 30 * SECOND)
REFUSED = EffectResults(write_error="the API refused to write the floor: webhook is down")
STATE = PoolState()
STANDBY = {"windows": [{**ALWAYS, "warmth": "standby"}]}


def reconciled(of=None, state=STATE, **known):
    known = {
        "target": service(),
        "revisions": [revision(annotations=held(expires=NOW + timedelta(hours=24)))],
        "autoscalers": [autoscaler(desired=2, actual=2, min_scale=2)],
        **known,
    }
    return reconciler.reconcile(snapshot(of, **known), state, NOW)


def events(result, state=STATE, effects=None):
    return [
        (event.type, event.reason) for event in describe(result, state, effects or EffectResults()).events
    ]


def conditions(result, effects):
    shown = describe(result, STATE, effects).status["conditions"]
    return {entry["type"]: entry for entry in shown}


def test_a_refused_write_is_in_the_status_of_a_new_pool_with_the_apis_words():
    new = pool(finalized=False)
    shown = conditions(reconciled(new, revisions=[revision()]), REFUSED)
    assert (shown["Ready"]["status"], shown["Ready"]["reason"]) == ("False", "WriteFailed")
    assert shown["Ready"]["message"] == REFUSED.write_error
    assert shown["Ready"]["observedGeneration"] == 1
    assert "webhook is down" in shown["Degraded"]["message"]


def test_a_floor_is_announced_once_it_is_written_and_a_refused_write_once():
    result = reconciled()
    assert events(result) == [("Normal", "FloorChanged")]
    assert ("Warning", "WriteFailed") in events(result, effects=REFUSED)
    assert ("Normal", "FloorChanged") not in events(result, effects=REFUSED)
    told = {"conditions": list(conditions(result, REFUSED).values())}
    again = reconciled(pool(status=told))
    assert events(again, effects=REFUSED) == []
    assert next_state(STATE, result, REFUSED, RETRY).announced is None


@pytest.mark.parametrize(
    ("announced", "status", "expected"),
    [
        (None, {}, [("Normal", "FloorChanged")]),
        (None, {"held": "2 hot"}, []),
        (None, {"held": "1 hot"}, [("Normal", "FloorChanged")]),
        (Announcement(Floor.of(2)), {"held": "1 hot"}, []),
        (Announcement(Floor.of(1)), {}, [("Normal", "FloorChanged")]),
    ],
)
def test_a_change_of_the_floor_is_announced_once_by_whichever_controller(announced, status, expected):
    state = PoolState(announced=announced)
    assert events(reconciled(pool(status=status), state), state) == expected


def test_a_refusal_is_announced_once_and_a_deletion_not_at_all():
    result = reconciled(target=None)
    assert events(result) == [("Warning", "TargetMissing")]
    assert events(result, PoolState(announced=Announcement(NOTHING, "TargetMissing"))) == []
    assert events(reconciled(pool(deleting=True))) == []


def test_a_pool_that_is_as_it_should_be_has_no_effects():
    settled = describe(reconciled(), STATE, no_effects(STATE)).status
    known = pool(status=settled)
    assert not has_effects(reconciled(known), STATE)
    assert has_effects(reconciled(pool(finalized=False, status=settled)), STATE)
    assert has_effects(reconciled(known, revisions=[revision()]), STATE)
    assert has_effects(reconciled(known, autoscalers=[autoscaler(desired=2, actual=1)]), STATE)
    assert has_effects(reconciled(pool(deleting=True, status=settled)), STATE)


def test_warmth_has_effects_until_it_is_applied():
    of, state = pool(STANDBY), STATE
    result = reconciled(of)
    settled = pool(STANDBY, status=describe(result, STATE, EffectResults()).status)
    result = reconciled(settled)
    assert has_effects(result, state)
    applied = PoolState(warmth_applied=WarmthTarget(Floor.of(2, "standby"), 2))
    assert result.warmth == applied.warmth_applied


@pytest.mark.parametrize(
    ("what", "failures", "effects", "after"),
    [
        ("nothing to check", 0, EffectResults(), None),
        ("a floor was written", 0, EffectResults((FloorWrite(("default", "r1"), "1", {}, 2),)), 1),
        ("first refusal", 0, REFUSED, 1),
        ("third refusal", 2, REFUSED, 4),
        ("many refusals", 50, REFUSED, 30),
        ("the status was refused", 0, EffectResults(status_error="no"), 1),
    ],
)
def test_when_the_pool_is_reconciled_again(what, failures, effects, after):
    state = next_state(PoolState(failures=failures), reconciled(), effects, RETRY)
    assert state.next_at == (NOW + after * SECOND if after else None), what


def test_a_server_that_asks_to_wait_is_asked_again_no_earlier():
    waiting = replace(RETRY, not_before=NOW + 20 * SECOND)
    assert next_state(STATE, reconciled(), REFUSED, waiting).next_at == NOW + 20 * SECOND
    assert next_state(STATE, reconciled(), EffectResults(), waiting).next_at is None


def test_failures_are_counted_until_everything_is_accepted():
    state = next_state(STATE, reconciled(), REFUSED, RETRY)
    state = next_state(state, reconciled(state=state), REFUSED, RETRY)
    assert (state.failures, state.write_error) == (2, REFUSED.write_error)
    state = next_state(state, reconciled(state=state), EffectResults(), RETRY)
    assert (state.failures, state.write_error) == (0, None)


def test_warmth_that_was_refused_is_tried_again():
    result, target = reconciled(pool(STANDBY)), WarmthTarget(Floor.of(2, "standby"), 2)
    refused = next_state(STATE, result, EffectResults(warmth_error="r1 does not go standby"), RETRY)
    assert (refused.warmth_error, refused.next_at) == ("r1 does not go standby", NOW + 30 * SECOND)
    done = next_state(refused, result, EffectResults(warmth_applied=target), RETRY)
    assert (done.warmth_applied, done.warmth_error, done.next_at) == (target, None, None)
    hot = next_state(done, reconciled(), no_effects(done), RETRY)
    assert hot.warmth_applied is None


def test_a_lowered_floor_is_remembered_and_a_fault_forgets_nothing():
    lowered = EffectResults((FloorWrite(("default", "r1"), "1", {}, 1, held=2),))
    state = next_state(STATE, reconciled(), lowered, RETRY)
    assert state.lowerings == {"r1": FloorLowering(NOW, 1)}
    fault = reconciler.failed(pool(), state, "a fault", NOW)
    after = next_state(state, fault, EffectResults(), RETRY)
    assert (after.lowerings, after.rollouts, after.account) == (
        state.lowerings,
        state.rollouts,
        state.account,
    )
    assert after.next_at == NOW + 30 * SECOND
