"""What a rollout writes on its Service, and what it leaves to whoever else has written there (pure)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from warmpool.reconcile import canary_record
from warmpool.reconcile.canary_record import RolloutRecord
from warmpool.reconcile.canary_values import Phase, RolloutInputs, RolloutStep, TrafficWrite, floors
from warmpool.reconcile.views import ServiceView


def adopt(inputs: RolloutInputs) -> RolloutStep:
    """The first record of a Service: the Revision that has its traffic is the running one."""
    service = inputs.service
    sole = canary_record.sole(service.spec_traffic)
    serving = next((share.revision for share in service.traffic if share.percent == 100), None)
    if sole is None and service.spec_traffic:
        text = (
            "the Service's traffic is divided by hand: give one Revision 100 %, "
            "and the rollout begins with it"
        )
        return RolloutStep(Phase.OVERRIDDEN, text, None)
    stable = sole.revision if sole is not None and sole.revision is not None else serving
    if stable is None or stable not in inputs.revisions:
        return RolloutStep(
            Phase.STARTING, "no Revision has been ready yet; the first one gets all traffic", None
        )
    record = RolloutRecord(stable, canary_record.split(service.spec_traffic, stable, None, 0))
    return write(
        inputs, record, Phase.STEADY, f"{stable} has the traffic; a new Revision gets none by itself"
    )


def overridden(inputs: RolloutInputs, record: RolloutRecord, now: datetime) -> RolloutStep:
    """What becomes of a split that somebody else has written: it stays, until an order says otherwise."""
    service, order = inputs.service, inputs.order
    live = order is not None and order.text != record.order
    sole = canary_record.sole(service.spec_traffic)
    if live and order is not None:
        done = replace(record, order=order.text)
        named = sole.revision if sole is not None else None
        if order.verb == "resume" and named in inputs.revisions and named is not None:
            adopted = replace(done.without_canary(), stable=named, failed=None, reason="")
            return write(inputs, adopted, Phase.STEADY, f"{named} has the traffic, as it was set by hand")
        if order.verb == "resume":
            return write(
                inputs, replace(done, since=now), Phase.ANALYSING, "the rollout goes on where it was"
            )
        if order.verb == "abort":
            return roll_back(inputs, done, order.revision, "aborted by hand")
    who = f" by {service.traffic_manager}" if service.traffic_manager else ""
    entries = ", ".join(f"{entry.revision or 'latest'} {entry.percent} %" for entry in service.spec_traffic)
    text = (
        f"the traffic was changed{who} to {entries}: the rollout leaves it alone until "
        "`pilotlight rollout resume`"
    )
    return RolloutStep(Phase.OVERRIDDEN, text, record.stable, record.canary, record.percent)


def at_rest(
    inputs: RolloutInputs, record: RolloutRecord, phase: Phase, text: str, canary: str | None
) -> RolloutStep:
    """The running Revision has everything, and nothing is to be done."""
    if record.stable not in inputs.revisions:
        text = f"the Revision {record.stable}, which has the traffic, is gone"
    if inputs.paused:
        text = f"{text}; the rollout is paused: a new Revision gets nothing until it is resumed"
    return RolloutStep(
        phase, text, record.stable, canary, floors={record.stable: inputs.floor}, since=record.since
    )


def give_back(service: ServiceView) -> TrafficWrite | None:
    """The write that ends all rollouts of a Service, once its newest Revision has the traffic anyway."""
    record = service.rollout
    if record is None or record.percent or service.latest_created != record.stable:
        return None
    return TrafficWrite(service.key[1], service.spec_traffic, None)


def roll_back(inputs: RolloutInputs, record: RolloutRecord, canary: str, why: str) -> RolloutStep:
    """Traffic first; the floor follows it."""
    order = consumed_order(inputs, record)
    back = replace(record.without_canary(), failed=canary, reason=why, order=order)
    written = write(inputs, back, Phase.ROLLED_BACK, f"{canary} was rolled back: {why}")
    return replace(written, canary=canary)


def write(inputs: RolloutInputs, record: RolloutRecord, phase: Phase, text: str) -> RolloutStep:
    """The step that writes a record, with the traffic that belongs to it."""
    before = inputs.service.spec_traffic
    traffic = canary_record.split(before, record.stable, record.canary, record.percent)
    written = replace(record, traffic=traffic)
    held = {record.stable: inputs.floor}
    if record.canary is not None:
        held = floors(
            inputs.floor,
            record.stable,
            record.canary,
            record.percent or inputs.spec.steps[0],
            surge=inputs.spec.surge,
        )
    return RolloutStep(
        phase,
        text,
        record.stable,
        record.canary,
        record.percent,
        floors=held,
        since=record.since,
        write=TrafficWrite(inputs.service.key[1], before, written),
    )


def consumed_order(inputs: RolloutInputs, record: RolloutRecord) -> str:
    """What the record says was ordered last, once it is carried out."""
    return inputs.order.text if inputs.order is not None else record.order
