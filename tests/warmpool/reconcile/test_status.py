"""What a WarmPool's status shows, and when a difference is worth a write."""

from datetime import timedelta
from decimal import Decimal

import pytest

from tests.warmpool.reconcile.builders import END, NOW, PRICES, pool
from warmpool.domain.account import Account
from warmpool.domain.cold_start import ColdStartStats
from warmpool.domain.decision import Adjustment, AdjustmentRule, Decision, PolicyName, Proposal
from warmpool.domain.floor import NOTHING, Floor
from warmpool.reconcile import status
from warmpool.reconcile.conditions import PoolCondition
from warmpool.reconcile.status import NextChange, RevisionStatus, StatusReport

TWO = Floor.of(2)
MONTH = NOW.replace(day=1, hour=0)
READY = PoolCondition("Ready", True, "FloorHeld")


def report(**changes):
    values = {
        "decision": Decision(TWO, "window/always", until=END),
        "next_change": None,
        "ready": 2,
        "lead": timedelta(seconds=90),
        "lead_source": "default",
        "cold_start": None,
        "revisions": (),
        **changes,
    }
    return StatusReport(**values)


def built(*, of=None, conditions=(READY,), **changes):
    return status.build(of or pool(), report(**changes), conditions, NOW)


def test_a_status_shows_what_is_known_and_leaves_out_the_rest():
    assert built() == {
        "observedGeneration": 1,
        "floor": 2,
        "held": "2 hot",
        "ready": 2,
        "reason": "window/always",
        "until": "2026-11-23T19:00:00Z",
        "rules": [],
        "leadTime": "1m30s",
        "leadTimeSource": "default",
        "revisions": [],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-11-23T12:00:00Z",
                "reason": "FloorHeld",
                "message": "",
            }
        ],
    }


def test_rules_are_the_proposals_and_then_what_cut_them():
    decision = Decision(
        Floor.of(1),
        "limits/max",
        proposals=(Proposal(PolicyName.SCHEDULE, TWO, "window/always", "Window always holds 2 hot."),),
        adjustments=(Adjustment(AdjustmentRule.MAX, TWO, Floor.of(1), "The pool's maximum is 1."),),
    )
    assert built(decision=decision)["rules"] == [
        {
            "rule": "schedule",
            "held": "2 hot",
            "reason": "window/always",
            "detail": "Window always holds 2 hot.",
        },
        {"rule": "limits", "held": "1 hot", "reason": "limits/max", "detail": "The pool's maximum is 1."},
    ]


def test_the_next_change_cold_starts_and_revisions():
    phases = {"import": timedelta(seconds=8.1), "device": timedelta(milliseconds=1)}
    shown = built(
        next_change=NextChange(END, NOTHING, "schedule/closed"),
        cold_start=ColdStartStats(timedelta(seconds=10), timedelta(seconds=14), 3, phases),
        revisions=(RevisionStatus("r1", 100, 2, None, 1, "Revision"),),
    )
    assert shown["nextChange"] == {
        "at": "2026-11-23T19:00:00Z",
        "floor": 0,
        "held": "0",
        "reason": "schedule/closed",
    }
    assert shown["coldStart"] == {"p50": "10.0s", "p95": "14.0s", "samples": 3, "phases": {"import": "8.1s"}}
    assert shown["revisions"] == [{"name": "r1", "percent": 100, "floor": 2, "ready": 1, "via": "Revision"}]


def test_the_cost_of_the_period():
    account = Account(MONTH, Decimal("12.345"), {"hold": Decimal("12.345")}, idle_gpu_s=99.6, busy_gpu_s=1)
    limited = pool({"limits": {"budget": {"amount": 400}}})
    cost = built(of=limited, account=account, projected=Decimal(300), gpu="l4", price=PRICES.of("l4"))["cost"]
    assert cost == {
        "currency": "USD",
        "period": "month",
        "periodStart": "2026-11-01T00:00:00Z",
        "toDate": "12.34",
        "projected": "300.00",
        "budget": "400.00",
        "gpu": "l4",
        "hourly": "3600",
        "byReason": {"hold": "12.34"},
        "busyGpuSeconds": 1,
        "idleGpuSeconds": 100,
    }


def test_a_condition_keeps_its_transition_time_as_long_as_its_status_is_the_same():
    earlier = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-01T00:00:00Z"}
    same, other = pool(status={"conditions": [earlier]}), PoolCondition("Ready", None, "Raising")
    (kept,) = built(of=same)["conditions"]
    (changed,) = built(of=same, conditions=(other,))["conditions"]
    assert (kept["lastTransitionTime"], kept["status"]) == ("2026-11-01T00:00:00Z", "True")
    assert (changed["lastTransitionTime"], changed["status"]) == ("2026-11-23T12:00:00Z", "Unknown")


def test_a_pool_with_an_invalid_spec_shows_what_it_still_holds():
    shown = built(decision=Decision(NOTHING, "invalid"), held=2)
    assert (shown["floor"], shown["held"], shown["reason"]) == (2, "2 hot", "invalid")


def test_a_pool_that_could_not_be_reconciled_keeps_its_status_but_for_the_conditions():
    before = pool(status={"floor": 2, "conditions": [{"type": "Degraded", "status": "True"}]})
    shown = status.failed(before, PoolCondition("Ready", False, "InternalError", "a fault"), NOW)
    assert shown["floor"] == 2
    assert [entry["reason"] for entry in shown["conditions"]] == ["InternalError"]


MINUTE = timedelta(minutes=1)
BASE = {
    "floor": 2,
    "reason": "keep-alive",
    "until": "a",
    "rules": [{"rule": "keep-alive", "held": "1 hot", "reason": "keep-alive", "detail": "12:00"}],
    "cost": {"budget": "400.00", "toDate": "1.00", "countedAt": "2026-11-23T11:55:00Z"},
}


def changed(**values):
    return {**BASE, **values}


@pytest.mark.parametrize(
    ("what", "after", "written_before", "written"),
    [
        ("the same", BASE, None, False),
        ("the floor", changed(floor=1), MINUTE / 2, True),
        ("the reason", changed(reason="hold"), MINUTE / 2, True),
        ("the end of a keep-alive, soon after a write", changed(until="b"), MINUTE / 2, False),
        ("the end of a keep-alive, a minute later", changed(until="b"), MINUTE, True),
        ("the end of a keep-alive, by a new controller", changed(until="b"), None, True),
        ("a rule's sentence", changed(rules=[{**BASE["rules"][0], "detail": "12:01"}]), MINUTE / 2, False),
        ("a rule's floor", changed(rules=[{**BASE["rules"][0], "held": "2 hot"}]), MINUTE / 2, True),
        ("five minutes of cost", changed(cost={**BASE["cost"], "toDate": "1.10"}), None, False),
        ("the budget", changed(cost={**BASE["cost"], "budget": "500.00"}), MINUTE / 2, True),
        ("a new key", changed(ready=1), MINUTE / 2, True),
    ],
)
def test_which_differences_are_written(what, after, written_before, written):
    at = NOW - written_before if written_before else None
    assert (status.patch(BASE, after, NOW, at) is not None) == written, what


def test_cost_alone_is_written_every_quarter_of_an_hour():
    after = changed(cost={**BASE["cost"], "toDate": "1.10"})
    assert status.patch(BASE, after, NOW + timedelta(minutes=9), NOW) is None
    assert status.patch(BASE, after, NOW + timedelta(minutes=10), NOW) == {"cost": after["cost"]}


def test_a_patch_names_what_is_gone_at_every_depth():
    before = {"floor": 1, "until": "a", "coldStart": {"p50": "1s", "phases": {"import": "1s"}}}
    after = {"floor": 1, "coldStart": {"p50": "2s"}}
    assert status.patch(before, after, NOW, None) == {
        "until": None,
        "coldStart": {"p50": "2s", "phases": None},
    }


@pytest.mark.parametrize(
    ("cost", "spent"),
    [
        ({"periodStart": "2026-11-01T00:00:00Z", "toDate": "12.50", "byReason": {"hold": "12.50"}}, "12.50"),
        ({"periodStart": "2026-11-01T00:00:00Z"}, None),
        ({"periodStart": "2026-11-01T00:00:00Z", "toDate": "a lot"}, None),
        ({"periodStart": "nonsense", "toDate": "1"}, None),
        ({}, None),
    ],
)
def test_an_account_is_read_back_from_a_status(cost, spent):
    account = status.account({"cost": cost})
    assert (str(account.spent) if account else None) == spent


def test_an_account_is_read_back_with_the_revisions_as_they_were_counted():
    cost = {"periodStart": "2026-11-01T00:00:00Z", "toDate": "1", "countedAt": "2026-11-23T11:00:00Z"}
    shown = {
        "cost": cost,
        "reason": "hold",
        "revisions": [{"name": "r1", "floor": 3, "ready": 2}, {"name": "r2"}],
    }
    last = status.account(shown).last
    assert (last.at, last.reason, last.charged) == (NOW - timedelta(hours=1), "hold", Floor.of(2))
