"""Objects as JSON: timestamps, ages, conditions, and what a specification says of its containers."""

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest

from knative.client.resources import POD
from knative.local import conditions, containers, objects
from knative.local.runnable import unrunnable

AT = datetime(2026, 11, 24, 9, 30, 15, 250, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (130, "2m10s"), (600, "10m"), (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"), (3 * 3600 + 120, "3h2m"), (9 * 3600, "9h"), (3 * 86400, "3d"), (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
    ],
)  # fmt: skip
def test_ages_as_kubectl_prints_them(seconds, text):
    assert objects.age(seconds) == text


def test_timestamps_are_utc_and_can_be_parsed():
    elsewhere = AT.astimezone(timezone(timedelta(hours=2)))
    assert objects.timestamp(elsewhere) == "2026-11-24T09:30:15Z"
    assert objects.micro_timestamp(elsewhere) == "2026-11-24T09:30:15.000250Z"
    assert objects.parse_timestamp(objects.micro_timestamp(AT)) == AT


def test_a_copy_shares_nothing():
    obj = {"spec": {"list": [{"a": 1}]}}
    copy = objects.clone(obj)
    copy["spec"]["list"][0]["a"] = 2
    assert obj == {"spec": {"list": [{"a": 1}]}}


def test_an_owner_reference_makes_the_owner_the_controller():
    owner = objects.typed(POD, {"metadata": {"name": "p", "uid": "u"}})
    assert objects.owner_reference(owner) == {
        "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip


FAILED = conditions.false("B", "Broken", "it broke")
WAITING = conditions.unknown("C", "Deploying")


@pytest.mark.parametrize(
    ("dependents", "status", "reason"),
    [
        ([], "True", ""),
        ([conditions.true("A")], "True", ""),
        ([conditions.true("A"), WAITING], "Unknown", "Deploying"),
        ([WAITING, FAILED], "False", "Broken"),
        ([conditions.false("A", "Minor", "", severity="Info")], "True", ""),
    ],
)
def test_ready_follows_from_the_conditions_it_depends_on(dependents, status, reason):
    *kept, ready = conditions.with_ready(dependents)
    assert kept == dependents
    assert (ready.type, ready.status, ready.reason) == ("Ready", status, reason)


def test_a_condition_keeps_its_time_while_it_does_not_change():
    before = conditions.written([FAILED, WAITING], (), "T1")
    after = conditions.written([WAITING, conditions.true("B")], before, "T2")
    assert [(item["type"], item["lastTransitionTime"]) for item in after] == [("B", "T2"), ("C", "T1")]


@pytest.mark.parametrize(
    ("resources", "kind", "name", "amount"),
    [
        ({}, "limits", "cpu", None),
        ({"limits": {"cpu": "1500m"}}, "limits", "cpu", Fraction(3, 2)),
        ({"limits": {"cpu": "1"}}, "requests", "cpu", 1),
        ({"limits": {"cpu": "1"}, "requests": {"cpu": "250m"}}, "requests", "cpu", Fraction(1, 4)),
        ({"requests": {"memory": "1Gi"}}, "limits", "memory", None),
        ({"limits": {"memory": 1000}}, "limits", "memory", 1000),
    ],
)
def test_amounts_of_a_resource(resources, kind, name, amount):
    assert containers.amount({"resources": resources}, kind, name) == amount


def test_the_gpus_of_a_pod_are_those_of_its_containers():
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    assert containers.gpus({"containers": [gpu, {}, gpu]}) == 2


def test_the_container_with_a_port_serves():
    first, second = {"name": "first"}, {"name": "second", "ports": [{"containerPort": 80, "name": "h2c"}]}
    assert containers.serving({"containers": [first, second]}) is second
    assert containers.serving({"containers": [first]}) is first
    assert (
        containers.port_name({"containers": [first, second]}),
        containers.port_name({"containers": [first]}),
    ) == (
        "h2c",
        "",
    )


@pytest.mark.parametrize(
    ("listed", "where"),
    [
        ([{"command": ["a"]}], None),
        ([{"args": ["a"]}], None),
        ([], "spec.template.spec.containers[0]"),
        ([{}], "spec.template.spec.containers[0]"),
        (
            [{"command": ["a"]}, {}, {}],
            "spec.template.spec.containers[1] and spec.template.spec.containers[2]",
        ),
    ],
)
def test_a_container_without_a_command_cannot_run(listed, where):
    problem = unrunnable({"spec": {"containers": listed}})
    assert (problem is None) is (where is None)
    if problem is not None:
        assert (problem.status, problem.reason) == ("False", "NoCommand")
        assert problem.message.endswith(f"set command in {where}")
