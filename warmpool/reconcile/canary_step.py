"""The next step of a rollout (pure): from what is there to the traffic to write and the floors to hold.

The running Revision is named in the Service's traffic, so that a new one gets nothing by itself. It is warmed
first, gets its share in steps, is compared with the running one in the same minutes, and goes on, waits or is
rolled back. All state is the record on the Service (`canary_record`), so that any controller can go on at any
instant.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from warmpool.domain.answers import RolloutWindow
from warmpool.reconcile import canary_analysis, canary_record, canary_writes
from warmpool.reconcile.canary_analysis import AnalysisState, Outcome
from warmpool.reconcile.canary_record import Order, RolloutRecord
from warmpool.reconcile.canary_values import Phase, RolloutInputs, RolloutStep, TrafficWrite, floors
from warmpool.reconcile.views import RevisionView

_SOON: Final = timedelta(seconds=1)


def step(inputs: RolloutInputs, now: datetime) -> RolloutStep:
    """Decide what is next."""
    service = inputs.service
    record = service.rollout
    if record is None:
        return canary_writes.adopt(inputs)
    if not canary_record.same(service.spec_traffic, record.traffic):
        return canary_writes.overridden(inputs, record, now)
    canary = inputs.revisions.get(service.latest_created or "")
    if canary is None or canary.deleting or canary.name == record.stable:
        return _steady(inputs, record)
    return _with_canary(inputs, record, canary, now)


def _with_canary(  # noqa: PLR0911  one return for each thing that may have become of it
    inputs: RolloutInputs, record: RolloutRecord, canary: RevisionView, now: datetime
) -> RolloutStep:
    """A newer Revision is there."""
    order = _live(inputs.order, record, canary.name)
    if canary.name == record.failed:
        if order not in {"resume", "promote"}:
            text = f"{canary.name} was rolled back: {record.reason}"
            return canary_writes.at_rest(inputs, record, Phase.ROLLED_BACK, text, canary.name)
        done = inputs.order.text if inputs.order is not None and order == "resume" else record.order
        record = replace(record, failed=None, reason="", order=done)
    elif order == "abort":
        return canary_writes.roll_back(inputs, record, canary.name, "aborted by hand")
    if _broken(canary):
        ready = canary.conditions["Ready"]
        why = f"it never became ready: {ready.reason}: {ready.message}".rstrip(": ")
        return canary_writes.roll_back(inputs, record, canary.name, why)
    if record.canary not in {None, canary.name}:
        fresh = record.without_canary()
        return canary_writes.write(
            inputs, fresh, Phase.STARTING, f"{canary.name} takes the place of {record.canary}"
        )
    if record.canary is not None:
        return _advance(inputs, record, canary, promote=order == "promote", now=now)
    if not _is_ready(canary):
        return _starting(inputs, record, canary, promote=order == "promote")
    tagged = replace(record, canary=canary.name, since=now)
    return canary_writes.write(inputs, tagged, Phase.WARMING, f"{canary.name} is ready and is being warmed")


def _is_ready(canary: RevisionView) -> bool:
    ready = canary.conditions.get("Ready")
    return ready is not None and ready.status == "True"


def _live(order: Order | None, record: RolloutRecord, canary: str) -> str | None:
    """The verb of an order about this canary that was not carried out yet."""
    if order is None or order.revision != canary or order.text == record.order:
        return None
    return order.verb


def _broken(canary: RevisionView) -> bool:
    """Whether Knative has given it up; one that waits for a GPU has not failed."""
    ready = canary.conditions.get("Ready")
    return ready is not None and ready.status == "False" and canary.unschedulable is None


def _steady(inputs: RolloutInputs, record: RolloutRecord) -> RolloutStep:
    if record.percent:  # the template went back to the running Revision in the middle of a rollout
        back = record.without_canary()
        return canary_writes.write(inputs, back, Phase.STEADY, f"{record.stable} has the traffic")
    return canary_writes.at_rest(inputs, record, Phase.STEADY, f"{record.stable} has the traffic", None)


def _starting(
    inputs: RolloutInputs, record: RolloutRecord, canary: RevisionView, *, promote: bool
) -> RolloutStep:
    """Its first replica takes the place of one of the floor's, which frees a GPU for it."""
    spec = inputs.spec
    held = {
        **floors(inputs.floor, record.stable, canary.name, spec.steps[0], surge=spec.surge),
        canary.name: 0,
    }
    text = f"{canary.name} starts; it gets no request before it is ready"
    if canary.unschedulable is not None:
        if promote:
            held[record.stable] = max(0, inputs.floor - 1)
        freed = inputs.floor - held[record.stable]
        does = (
            f"{freed} of the floor is released for it"
            if freed > 0
            else f"it waits, for the last replica of {record.stable} is kept; `pilotlight rollout promote` "
            "lets it go"
        )
        text = f"{canary.name} finds no GPU ({canary.unschedulable}): {does}"
    return RolloutStep(
        Phase.STARTING,
        text,
        record.stable,
        canary.name,
        next_percent=spec.steps[0],
        floors=held,
        waits_for_replicas=canary.unschedulable is not None,
    )


def _advance(
    inputs: RolloutInputs, record: RolloutRecord, canary: RevisionView, *, promote: bool, now: datetime
) -> RolloutStep:
    """From one share to the next, or back."""
    spec, percent = inputs.spec, record.percent
    target = 100 if promote else spec.after(percent)
    base = RolloutStep(
        Phase.WARMING, "", record.stable, canary.name, percent, target, record.since, analysis=inputs.analysis
    )
    if percent and not promote:
        since = record.since or now
        window = RolloutWindow(inputs.service.key, record.stable, canary.name, percent, since)
        may_pass = now >= since + spec.pause and not inputs.paused
        analysis = canary_analysis.look(inputs.analysis, spec, window, inputs.reading, may_pass=may_pass)
        base = replace(base, analysis=analysis, window=window, check_again=_next_look(inputs, analysis, now))
        verdict = analysis.verdict
        if verdict.outcome is Outcome.FAIL:
            back = canary_writes.roll_back(inputs, record, canary.name, f"at {percent} %: {verdict.detail}")
            return replace(back, analysis=analysis)
        held = _held(inputs, record, canary.name, percent)
        if inputs.paused:
            return replace(base, phase=Phase.PAUSED, detail=f"paused at {percent} %", floors=held)
        if verdict.outcome is not Outcome.PASS and not record.passed:
            text = verdict.detail
            if not may_pass and analysis.looks:
                text = f"the step lasts until {since + spec.pause:%H:%M:%S} UTC at least; {text}"
            return replace(base, phase=Phase.ANALYSING, detail=text, floors=held)
    if inputs.paused and not promote:
        held = _held(inputs, record, canary.name, spec.steps[0])
        return replace(base, phase=Phase.PAUSED, detail="paused before the first share", floors=held)
    following = _warm(inputs, record, canary, base, now)
    return following if promote else _noted(inputs, record, following)


def _noted(inputs: RolloutInputs, record: RolloutRecord, following: RolloutStep) -> RolloutStep:
    """With the pass in the record while the next share waits: replicas that start outlive a controller."""
    if following.write is not None or not record.percent or record.passed:
        return following
    noted = replace(record, passed=True)
    before = inputs.service.spec_traffic
    return replace(following, write=TrafficWrite(inputs.service.key[1], before, noted))


def _held(inputs: RolloutInputs, record: RolloutRecord, canary: str, percent: int) -> dict[str, int]:
    """The floors of a share that is there already: no more than the pool's where the budget ends."""
    held = floors(inputs.floor, record.stable, canary, percent)
    if not inputs.affordable:
        held[canary] = max(0, held[canary] - max(0, sum(held.values()) - inputs.floor))
    return held


def _warm(
    inputs: RolloutInputs, record: RolloutRecord, canary: RevisionView, base: RolloutStep, now: datetime
) -> RolloutStep:
    """Get the replicas for the next share ready, then move the traffic."""
    target = base.next_percent or 100
    held = floors(inputs.floor, record.stable, canary.name, target, surge=inputs.spec.surge)
    goal = _possible(held[canary.name], canary)
    extra = sum(held.values()) > inputs.floor
    stuck = canary.unschedulable
    poor = extra and not inputs.affordable
    if (poor or stuck is not None) and target == 100 and goal > 1:
        # The last one of the old floor goes with the traffic, and what it holds becomes the new one's. Where
        # money lacks the floor is less meanwhile; a replica that waits for a GPU goes on waiting.
        goal -= 1
        held[canary.name] -= 1 if poor else 0
        poor = False
    if poor:
        stuck = "the budget cannot pay for both Revisions at once"
    scale = inputs.autoscalers.get(canary.name)
    ready = (scale.actual or 0) if scale else 0
    if ready >= goal and (canary.min_scale or 0) >= goal:
        checked = _check(inputs, record, replace(base, floors=held), now) if target < 100 else None
        return checked or _move(inputs, record, base, target, now)
    text = f"{ready} of {goal} replicas of {canary.name} are warm for {target} %"
    if stuck is None:
        return replace(base, detail=text, floors=held)
    if poor:
        held = {record.stable: inputs.floor}
        if base.percent:
            held = floors(inputs.floor, record.stable, canary.name, base.percent)
    freed = inputs.floor - held[record.stable]
    does = f"{freed} of the floor is released for it" if freed > 0 else "it waits"
    return replace(base, detail=f"{text}: {stuck}; {does}", floors=held, waits_for_replicas=True)


def _check(
    inputs: RolloutInputs, record: RolloutRecord, base: RolloutStep, now: datetime
) -> RolloutStep | None:
    """What the quality check before the first share leads to; None: to that share."""
    spec = inputs.spec
    if base.percent or spec.quality is None or spec.margins.quality is None or record.canary is None:
        return None
    window = RolloutWindow(inputs.service.key, record.stable, record.canary, 0, record.since or now)
    analysis = canary_analysis.check(inputs.analysis, spec, window, inputs.reading)
    verdict = analysis.verdict
    if verdict.outcome is Outcome.PASS:
        return None
    if verdict.outcome is Outcome.FAIL:
        back = canary_writes.roll_back(
            inputs, record, record.canary, f"before its first share: {verdict.detail}"
        )
        return replace(back, analysis=analysis)
    again = _next_look(inputs, analysis, now)
    return replace(base, detail=verdict.detail, analysis=analysis, window=window, check_again=again)


def _move(
    inputs: RolloutInputs, record: RolloutRecord, base: RolloutStep, target: int, now: datetime
) -> RolloutStep:
    canary = record.canary or ""
    if target == 100:
        moved = RolloutRecord(canary, record.traffic, order=canary_writes.consumed_order(inputs, record))
        return canary_writes.write(inputs, moved, Phase.STEADY, f"{canary} has all of the traffic")
    moved = replace(record, percent=target, since=now, passed=False)
    written = canary_writes.write(inputs, moved, Phase.ANALYSING, f"{canary} has {target} % of the traffic")
    return replace(written, analysis=base.analysis)


def _possible(goal: int, canary: RevisionView) -> int:
    """Replicas that its annotations let it have."""
    limits = [limit for limit in (canary.max_scale, canary.activation_scale) if limit is not None]
    return min([goal, *limits])


def _next_look(inputs: RolloutInputs, analysis: AnalysisState, now: datetime) -> datetime:
    since = analysis.window.since if analysis.window is not None else now
    fresh = analysis.read_at is None
    return now + (_SOON if fresh else inputs.spec.next_look(now - since))
