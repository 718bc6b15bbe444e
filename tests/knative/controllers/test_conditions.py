"""How Ready is drawn from other conditions, and when a transition time changes."""

import pytest

from knative.local import conditions
from knative.local.conditions import Condition
from tests.knative.controllers.objects import EARLIER, NOW, condition

TRUE = conditions.true("A")
UNKNOWN = conditions.unknown("B", "Deploying")
FALSE = conditions.false("C", "Failed", "it broke")


@pytest.mark.parametrize(
    ("dependents", "ready"),
    [
        ([], ("True", "", "")),
        ([TRUE], ("True", "", "")),
        ([TRUE, UNKNOWN], ("Unknown", "Deploying", "")),
        ([UNKNOWN, FALSE], ("False", "Failed", "it broke")),
        ([FALSE, conditions.false("D", "Later", "")], ("False", "Failed", "it broke")),
        ([TRUE, conditions.false("D", "NoTraffic", "", severity="Info")], ("True", "", "")),
    ],
)
def test_ready_is_false_before_unknown_before_true_and_ignores_severity_info(dependents, ready):
    *kept, last = conditions.with_ready(dependents)
    assert kept == dependents
    assert (last.type, last.status, last.reason, last.message) == ("Ready", *ready)


@pytest.mark.parametrize(
    ("now", "since"),
    [
        (conditions.true("Ready"), EARLIER),
        (conditions.false("Ready", "Failed", "it broke"), NOW),
        (conditions.unknown("Ready"), NOW),
    ],
)
def test_a_condition_keeps_its_transition_time_until_its_content_changes(now, since):
    (written,) = conditions.written([now], [condition("Ready", "True")], NOW)
    assert written["lastTransitionTime"] == since


def test_conditions_are_written_by_type_without_empty_fields():
    written = conditions.written([UNKNOWN, TRUE], [], NOW)
    assert [item["type"] for item in written] == ["A", "B"]
    assert written[0] == {"lastTransitionTime": NOW, "status": "True", "type": "A"}


@pytest.mark.parametrize(
    ("obj", "kind", "expected"),
    [
        (None, "Ready", None),
        ({}, "Ready", None),
        ({"status": {"conditions": [condition("Ready", "False", "X", "y")]}}, "Active", None),
        (
            {"status": {"conditions": [condition("Ready", "False", "X", "y")]}},
            "Ready",
            Condition("Ready", "False", "X", "y"),
        ),
    ],
)
def test_a_condition_is_found_by_its_type(obj, kind, expected):
    assert conditions.named(obj, kind) == expected


@pytest.mark.parametrize(("observed", "current"), [(2, True), (1, False), (None, False)])
def test_a_status_is_current_if_it_observed_the_latest_generation(observed, current):
    obj = {"metadata": {"generation": 2}, "status": {"observedGeneration": observed}}
    assert conditions.is_current(obj) is current
