"""The next step of a rollout: what is written, what is held, and what nobody may do."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.warmpool.reconcile.builders import (
    MIN,
    NO_GPU,
    NOW,
    autoscaler,
    pool,
    revision,
    service,
    snapshot,
    traffic,
)
from warmpool.domain.answers import AnswerCounts, AnswerReading, RolloutWindow
from warmpool.domain.proportions import Proportion
from warmpool.domain.rollout import Rollout
from warmpool.reconcile import canary_record, canary_step, canary_writes, parsing, reconciler
from warmpool.reconcile.canary_analysis import AnalysisState, Outcome
from warmpool.reconcile.canary_record import RolloutRecord, TrafficEntry, parse_order
from warmpool.reconcile.canary_values import Phase, RolloutInputs, floors, needed
from warmpool.reconcile.state import PoolState
from warmpool.reconcile.views import KnativeCondition

READY = {"Ready": KnativeCondition("True")}
BROKEN = {"Ready": KnativeCondition("False", "ContainerMissing", "no such image")}
LATEST = (TrafficEntry(None, 100),)
PINNED = (TrafficEntry("r1", 100),)
LATER = NOW + timedelta(minutes=5)


def recorded(percent=None, **changes):
    """The record of a rollout from r1 to r2, with the canary tagged from `percent` 0 on."""
    canary = None if percent is None else "r2"
    part = canary_record.split(PINNED, "r1", canary, percent or 0)
    return replace(RolloutRecord("r1", part, canary, percent or 0, NOW if canary else None), **changes)


def inputs(record=None, *, ready=(4, 0), canary=READY, latest="r2", written=0, **changes):
    """A pool of four; `ready` replicas of r1 and r2, of which r2 has `written` as its min-scale."""
    view = service(
        traffic(r1=100), created=latest, spec_traffic=record.traffic if record else LATEST, rollout=record
    )
    r2 = revision("r2", {MIN: str(written)} if written else {}, conditions=canary)
    values = RolloutInputs(
        spec=Rollout(),
        service=view,
        revisions={"r1": revision("r1", conditions=READY), "r2": r2},
        autoscalers={
            name: autoscaler(name, actual=count) for name, count in zip(("r1", "r2"), ready, strict=True)
        },
        floor=4,
    )
    return replace(values, **changes)


def answers(of, canary, stable, at=LATER):
    """A reading of the step that the record is in."""
    record = of.service.rollout
    window = RolloutWindow(of.service.key, "r1", "r2", record.percent, record.since)
    return AnswerReading(window, at, {"r2": canary, "r1": stable})


GOOD = AnswerCounts(2000), AnswerCounts(20_000)
BAD = AnswerCounts(50, 10), AnswerCounts(950)
FEW = AnswerCounts(10), AnswerCounts(190)


def test_a_rollout_goes_from_the_first_pin_to_the_last_step():
    """Each write becomes the Service's traffic and record, as the API would have it."""
    found, at, view = [], NOW, inputs(written=4, ready=(4, 4))
    for _ in range(12):
        step = canary_step.step(view, at)
        found.append((step.phase, step.percent, dict(step.floors or {})))
        if step.write is None:
            break
        record = canary_record.read({canary_record.RECORD: canary_record.write(step.write.record)})
        assert record == step.write.record
        view = replace(view, service=replace(view.service, rollout=record, spec_traffic=record.traffic))
        at += timedelta(minutes=3)
        view = replace(view, reading=answers(view, *GOOD, at=at) if record.percent else None)
    assert found == [
        (Phase.STEADY, 0, {"r1": 4}),
        (Phase.WARMING, 0, {"r1": 3, "r2": 1}),
        (Phase.ANALYSING, 5, {"r1": 3, "r2": 1}),
        (Phase.ANALYSING, 25, {"r1": 3, "r2": 1}),
        (Phase.ANALYSING, 50, {"r1": 2, "r2": 2}),
        (Phase.STEADY, 0, {"r2": 4}),
        (Phase.STEADY, 0, {"r2": 4}),
    ]


@pytest.mark.parametrize(
    ("what", "view", "phase", "percent", "told"),
    [
        ("not ready", inputs(recorded(), canary={}), Phase.STARTING, None, "gets no request"),
        ("broken", inputs(recorded(), canary=BROKEN), Phase.ROLLED_BACK, 0, "never became ready: Container"),
        ("ready", inputs(recorded()), Phase.WARMING, 0, "is being warmed"),
        ("cold", inputs(recorded(0)), Phase.WARMING, None, "0 of 1 replicas of r2 are warm for 5 %"),
        ("warm by chance", inputs(recorded(0), ready=(4, 1)), Phase.WARMING, None, "1 of 1"),
        ("warm", inputs(recorded(0), ready=(4, 1), written=1), Phase.ANALYSING, 5, "has 5 %"),
        ("uncounted", inputs(recorded(5)), Phase.ANALYSING, None, "no answers have been counted"),
        ("broken later", inputs(recorded(25), canary=BROKEN), Phase.ROLLED_BACK, 0, "never became ready"),
        ("the old again", inputs(recorded(25), latest="r1"), Phase.STEADY, 0, "r1 has the traffic"),
        ("superseded", inputs(recorded(25, canary="r0")), Phase.STARTING, 0, "takes the place of r0"),
        ("failed", inputs(recorded(failed="r2", reason="bad")), Phase.ROLLED_BACK, None, "rolled back: bad"),
        ("paused", inputs(recorded(5), paused=True), Phase.PAUSED, None, "paused at 5 %"),
        ("no traffic", inputs(None, service=service((), created=None)), Phase.STARTING, None, "no Revision"),
    ],
)
def test_each_situation_has_its_step(what, view, phase, percent, told):
    step = canary_step.step(view, LATER)
    assert step.phase is phase, what
    assert told in step.detail
    assert (step.write.record.percent if step.write else None) == percent


@pytest.mark.parametrize(
    ("counts", "outcome", "percent", "phase"),
    [
        (GOOD, Outcome.PASS, 25, Phase.WARMING),
        (FEW, Outcome.WAIT, None, Phase.ANALYSING),
        (BAD, Outcome.FAIL, 0, Phase.ROLLED_BACK),
    ],
)
def test_what_was_answered_decides(counts, outcome, percent, phase):
    view = inputs(recorded(25), ready=(3, 1), written=1)
    step = canary_step.step(replace(view, reading=answers(view, *counts)), LATER)
    assert (step.phase, step.analysis.verdict.outcome) == (phase, outcome)
    assert (step.write.record.percent if step.write else None) == percent
    if percent == 0:
        assert step.write.record.failed == "r2"
        assert canary_record.same(step.write.record.traffic, PINNED)
        assert step.floors == {"r1": 4}


def test_a_step_never_passes_before_its_pause_is_over_or_while_paused_and_fails_at_any_time():
    early = NOW + timedelta(seconds=30)
    view = inputs(recorded(25), ready=(3, 4), written=4)
    good = replace(view, reading=answers(view, *GOOD, at=early))
    assert canary_step.step(good, early).write is None
    bad = replace(view, reading=answers(view, *BAD, at=early), paused=True)
    assert canary_step.step(bad, early).phase is Phase.ROLLED_BACK


def test_a_traffic_split_of_somebody_else_is_left_alone_and_said():
    edited = (TrafficEntry("r1", 50), TrafficEntry("r2", 50))
    view = inputs(recorded(5))
    view = replace(view, service=replace(view.service, spec_traffic=edited, traffic_manager="kubectl-edit"))
    step = canary_step.step(view, LATER)
    assert (step.phase, step.write, step.floors) == (Phase.OVERRIDDEN, None, None)
    assert "changed by kubectl-edit to r1 50 %, r2 50 %" in step.detail
    resumed = replace(view, order=parse_order("resume r2 t1"))
    back = canary_step.step(resumed, LATER)
    assert back.write.before == edited
    assert canary_record.same(back.write.record.traffic, recorded(5).traffic)
    assert back.write.record.order == "resume r2 t1"
    whole = replace(resumed.service, spec_traffic=(TrafficEntry("r2", 100),))
    adopted = canary_step.step(replace(resumed, service=whole), LATER)
    assert (adopted.write.record.stable, adopted.write.record.canary) == ("r2", None)


def test_a_split_made_by_hand_before_the_first_record_is_left_alone():
    edited = (TrafficEntry("r1", 90), TrafficEntry("r2", 10))
    view = inputs(service=service(traffic(r1=90, r2=10), created="r2", spec_traffic=edited))
    assert canary_step.step(view, NOW).phase is Phase.OVERRIDDEN


def test_tags_of_the_user_stay():
    mine = (TrafficEntry("r1", 100), TrafficEntry("r0", 0, "old"), TrafficEntry(None, 0, "canary"))
    record = recorded(traffic=mine)
    step = canary_step.step(inputs(record), LATER)
    assert step.write.record.traffic == (
        TrafficEntry("r1", 100),
        TrafficEntry("r2", 0, "pilotlight-canary"),
        TrafficEntry("r0", 0, "old"),
        TrafficEntry(None, 0, "canary"),
    )


@pytest.mark.parametrize(
    ("order", "record", "phase", "percent"),
    [
        ("abort r2 t", recorded(25), Phase.ROLLED_BACK, 0),
        ("abort r1 t", recorded(25), Phase.ANALYSING, None),
        ("promote r2 t", recorded(5), Phase.STEADY, 0),
        ("promote r2 t", recorded(failed="r2"), Phase.WARMING, 0),
        ("promote r2 t", recorded(failed="r2", order="promote r2 t"), Phase.ROLLED_BACK, None),
        ("resume r2 t", recorded(failed="r2"), Phase.WARMING, 0),
        ("resume r2 t", recorded(failed="r2", order="resume r2 t"), Phase.ROLLED_BACK, None),
        ("explode r2 t", recorded(25), Phase.ANALYSING, None),
    ],
)
def test_orders_are_carried_out_once(order, record, phase, percent):
    view = inputs(record, ready=(4, 4), written=4, order=parse_order(order))
    step = canary_step.step(view, LATER)
    assert step.phase is phase
    assert (step.write.record.percent if step.write else None) == percent


def stuck(**changes):
    waits = {**READY, "ResourcesAvailable": KnativeCondition("False", "Unschedulable", NO_GPU)}
    return revision("r2", {MIN: "3"}, conditions=waits, **changes)


def test_without_a_free_gpu_it_frees_what_the_step_needs_or_waits_and_says_so():
    starting = inputs(recorded(), canary={})
    waiting = replace(stuck(), conditions={"ResourcesAvailable": stuck().conditions["ResourcesAvailable"]})
    starting = replace(starting, revisions={**starting.revisions, "r2": waiting})
    step = canary_step.step(starting, LATER)
    assert step.floors == {"r1": 3, "r2": 0}
    assert "1 of the floor is released for it" in step.detail
    only = canary_step.step(replace(starting, floor=1), LATER)
    assert only.floors["r1"] == 1
    assert "it waits" in only.detail
    assert only.waits_for_replicas
    given = replace(starting, floor=1, order=parse_order("promote r2 t"))
    assert canary_step.step(given, LATER).floors["r1"] == 0

    # The last step: three of four are warm, and the fourth GPU is the old one's last.
    last = inputs(recorded(50), ready=(1, 3), order=parse_order("promote r2 t"))
    last = replace(last, revisions={**last.revisions, "r2": stuck()})
    assert canary_step.step(last, LATER).write.record.stable == "r2"
    waiting = canary_step.step(replace(last, autoscalers={"r2": autoscaler("r2", actual=2)}), LATER)
    assert waiting.floors == {"r1": 1, "r2": 4}  # the fourth goes on waiting, so that nothing flaps
    assert "2 of 3 replicas of r2 are warm for 100 %" in waiting.detail


@pytest.mark.parametrize(
    ("found", "phase", "percent", "told"),
    [
        (None, Phase.WARMING, None, "no replica answers"),
        ((1, 0), Phase.ANALYSING, 5, "has 5 %"),
        ((2, 0), Phase.ROLLED_BACK, 0, "before its first share: quality: 2 of 10 prompts"),
        ((5, 4), Phase.ANALYSING, 5, "has 5 %"),
    ],
)
def test_a_quality_check_comes_before_the_first_share(found, phase, percent, told):
    spec = Rollout.model_validate({"quality": {"prompts": [{"prompt": "p"}] * 10}})
    view = inputs(recorded(0), ready=(4, 1), written=1, spec=spec)
    waiting = canary_step.step(view, LATER)
    assert (waiting.phase, waiting.write, waiting.window.percent) == (Phase.WARMING, None, 0)
    quality = found and {"r2": Proportion(found[0], 10), "r1": Proportion(found[1], 10)}
    reading = AnswerReading(waiting.window, LATER, {}, quality, "" if found else "no replica answers")
    step = canary_step.step(replace(view, reading=reading), LATER)
    assert (step.phase, step.write.record.percent if step.write else None) == (phase, percent)
    assert told in step.detail


def test_without_money_for_both_it_waits_and_says_so():
    view = inputs(recorded(0), floor=1, affordable=False)
    step = canary_step.step(view, LATER)
    assert step.floors == {"r1": 1}
    assert "the budget cannot pay for both Revisions at once; it waits" in step.detail
    assert canary_step.step(replace(view, floor=4), LATER).floors == {"r1": 3, "r2": 1}
    sharing = inputs(recorded(5), floor=0, affordable=False)
    assert canary_step.step(sharing, LATER).floors == {"r1": 0, "r2": 0}
    assert canary_step.step(replace(sharing, affordable=True), LATER).floors == {"r1": 0, "r2": 1}


def test_a_step_that_has_passed_stays_so_while_replicas_start_unless_it_fails():
    view = inputs(recorded(25), ready=(3, 1), written=1)
    first = canary_step.step(replace(view, reading=answers(view, *GOOD)), LATER)
    assert (first.phase, first.floors) == (Phase.WARMING, {"r1": 2, "r2": 2})
    # What has passed is in the record, so that replicas that start outlive the controller that ordered them.
    restarted = replace(view, service=replace(view.service, rollout=first.write.record))
    assert first.write.record == recorded(25, passed=True)
    kept = canary_step.step(restarted, LATER)
    assert (kept.phase, kept.floors, kept.write) == (Phase.WARMING, {"r1": 2, "r2": 2}, None)
    ready = canary_step.step(replace(restarted, autoscalers={"r2": autoscaler("r2", actual=2)}), LATER)
    assert ready.write is None  # the floor of two is not written yet
    later, more = LATER + timedelta(seconds=30), (AnswerCounts(2010), AnswerCounts(20_100))
    view = replace(view, analysis=first.analysis)
    again = canary_step.step(replace(view, reading=answers(view, *more, at=later)), later)
    assert (again.phase, again.floors) == (Phase.WARMING, {"r1": 2, "r2": 2})
    worse = (AnswerCounts(2100, 100), AnswerCounts(20_200))
    view = replace(view, analysis=again.analysis)
    last = canary_step.step(
        replace(view, reading=answers(view, *worse, at=later + timedelta(seconds=30))), later
    )
    assert last.phase is Phase.ROLLED_BACK


@given(st.integers(0, 50), st.integers(1, 100), st.integers(0, 5))
def test_the_floors_of_both_add_up_to_the_floor(floor, percent, surge):
    held = floors(floor, "r1", "r2", percent, surge=surge)
    assert held["r2"] == needed(floor, percent) >= 1
    assert held["r2"] * 100 >= floor * percent
    assert sum(held.values()) <= max(floor + surge, held["r2"] + 1)
    if floor > held["r2"] and not surge:
        assert sum(held.values()) == floor


PHASES = st.sampled_from([GOOD, BAD, FEW, None])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(PHASES, st.booleans(), st.booleans(), st.integers(0, 4)), max_size=25))
def test_whatever_happens_a_bad_revision_is_never_promoted_and_traffic_adds_up(events):
    """A controller that forgets everything before each step comes to the same."""
    view, at = inputs(recorded()), NOW
    for counts, paused, forget, ready in events:
        at += timedelta(minutes=3)
        r2 = revision("r2", {MIN: "4"}, conditions=READY)
        view = replace(
            view,
            paused=paused,
            revisions={**view.revisions, "r2": r2},
            autoscalers={**view.autoscalers, "r2": autoscaler("r2", actual=ready)},
        )
        record = view.service.rollout
        if counts is not None and record.percent:
            view = replace(view, reading=answers(view, *counts, at=at))
        before = view.analysis.window
        step = canary_step.step(view, at)
        view = replace(view, analysis=AnalysisState() if forget else step.analysis, reading=None)
        if step.write is None:
            continue
        after = step.write.record
        assert sum(entry.percent for entry in after.traffic) == 100
        if counts is BAD and record.percent:
            assert after.failed == "r2", before
        if after.stable == "r2":
            assert counts is GOOD or record.passed
            assert record.percent == 50
            assert ready >= 4
            break
        assert after.percent <= record.percent or after.percent == Rollout().after(record.percent)
        view = replace(view, service=replace(view.service, rollout=after, spec_traffic=after.traffic))


def test_the_reconciler_holds_the_divided_floor_and_shows_the_rollout():
    view = inputs(recorded(25), ready=(3, 1), written=1)
    owner = pool({"windows": [{"name": "w", "from": "00:00", "to": "24:00", "replicas": 4}], "rollout": {}})
    known = snapshot(owner, target=view.service, revisions=view.revisions.values())
    result = reconciler.reconcile(replace(known, answers=answers(view, *BAD)), PoolState(), LATER)
    assert result.plan.shares == {"r1": 4}
    assert result.traffic.record.failed == "r2"
    assert result.rollout.phase is Phase.ROLLED_BACK


def test_without_a_rollout_the_traffic_is_given_back_once_nothing_is_under_way():
    view = service(created="r1", spec_traffic=PINNED, rollout=recorded())
    assert canary_writes.give_back(view).record is None
    assert canary_writes.give_back(replace(view, latest_created="r2")) is None
    assert canary_writes.give_back(service()) is None


def test_a_service_is_read_with_its_traffic_its_record_and_who_wrote_it():
    obj = {
        "metadata": {
            "name": "s",
            "namespace": "default",
            "annotations": {canary_record.RECORD: canary_record.write(recorded(5))},
            "managedFields": [
                {"manager": "a", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:traffic": {}}}},
                {"manager": "b", "time": "2026-01-02T00:00:00Z", "fieldsV1": {"f:spec": {"f:template": {}}}},
            ],
        },
        "spec": {"traffic": [{"latestRevision": True, "percent": 100}, "junk"]},
    }
    view = parsing.parse_service(obj)
    assert (view.rollout, view.spec_traffic, view.traffic_manager) == (recorded(5), LATEST, "a")
    for spoilt in (
        "",
        "[]",
        "null",
        "{",
        json.dumps({"stable": "x"}),
        '{"stable": "x", "traffic": 3, "percent": "y"}',
    ):
        obj["metadata"]["annotations"][canary_record.RECORD] = spoilt
        assert parsing.parse_service(obj).rollout is None
