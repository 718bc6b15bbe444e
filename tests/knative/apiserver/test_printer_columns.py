"""Cells of `kubectl get`, and the Table that they stand in."""

from datetime import UTC, datetime
from typing import Any

import pytest

from knative.client.resources import CONFIG_MAP, EVENT, POD, SECRET, SERVICE
from knative.local.apiserver import kinds, printer_columns
from knative.local.apiserver.api.tables import table
from knative.local.apiserver.records import Key, Record

KINDS = kinds.load()
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def pod(*states: dict[str, Any], phase: str = "Running", **meta: Any) -> dict[str, Any]:
    """A Pod with one container for each state."""
    return {
        "metadata": {"name": "p", **meta},
        "spec": {"containers": [{} for _ in states] or [{}]},
        "status": {"phase": phase, "podIP": "127.0.0.1", "containerStatuses": list(states)},
    }


@pytest.mark.parametrize(
    ("obj", "shown"),
    [
        (pod({"state": {"running": {}}}), "Running"),
        (pod({"state": {"waiting": {"reason": "CrashLoopBackOff"}}}), "CrashLoopBackOff"),
        (pod({"state": {"running": {}}}, {"state": {"terminated": {"reason": "OOMKilled"}}}), "OOMKilled"),
        (pod({"state": {"waiting": {"reason": "PodInitializing"}}}, phase="Pending"), "Pending"),
        (pod(deletionTimestamp="2026-01-01T00:00:00Z"), "Terminating"),
        ({"metadata": {}, "spec": {"containers": [{}]}}, "Pending"),
        ({"metadata": {}, "spec": {"containers": [{}]}, "status": {"phase": "Failed"}}, "Failed"),
    ],
)
def test_the_status_of_a_pod(obj, shown):
    assert printer_columns.pod_status(obj, NOW) == shown


@pytest.mark.parametrize(
    ("obj", "ready", "restarts"),
    [
        (pod({"ready": True}, {"ready": False}), "1/2", "0"),
        (pod({"ready": True, "restartCount": 2}), "1/1", "2"),
        (
            pod(
                {"restartCount": 1, "lastState": {"terminated": {"finishedAt": "2026-01-01T11:00:00Z"}}},
                {"restartCount": 2, "lastState": {"terminated": {"finishedAt": "2026-01-01T11:58:00Z"}}},
            ),
            "0/2",
            "3 (2m ago)",
        ),
        ({"spec": {"containers": [{}]}}, "0/1", "0"),
    ],
)
def test_readiness_and_restarts_of_a_pod(obj, ready, restarts):
    assert printer_columns.ready_containers(obj, NOW) == ready
    assert printer_columns.pod_restarts(obj, NOW) == restarts


def cells(resource: Any, obj: dict[str, Any], include: str = "Metadata") -> dict[str, Any]:
    record = Record(Key(resource, "default", "a"), 7, obj, b"")
    made = table(KINDS[resource], [record], NOW, include=include, metadata={"resourceVersion": "7"})
    names = [column["name"] for column in made["columnDefinitions"]]
    return dict(zip(names, made["rows"][0]["cells"], strict=True))


def named(**more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "creationTimestamp": "2026-01-01T11:59:00Z"}, **more}


@pytest.mark.parametrize(
    ("resource", "obj", "shown"),
    [
        (
            CONFIG_MAP,
            named(data={"a": "1"}, binaryData={"b": "eA=="}),
            {"Name": "a", "Data": "2", "Age": "60s"},
        ),
        (SECRET, named(type="Opaque"), {"Name": "a", "Type": "Opaque", "Data": "0", "Age": "60s"}),
        (
            SERVICE,
            named(
                status={
                    "url": "http://x",
                    "conditions": [{"type": "Ready", "status": "False", "reason": "R"}],
                }
            ),
            {
                "Name": "a",
                "URL": "http://x",
                "LatestCreated": None,
                "LatestReady": None,
                "Ready": "False",
                "Reason": "R",
            },
        ),
        (
            EVENT,
            named(
                involvedObject={"kind": "Pod", "name": "p"},
                source={"component": "kubelet", "host": "here"},
                lastTimestamp="2026-01-01T11:00:00Z",
                count=3,
            ),
            {
                "Last Seen": "60m",
                "Type": None,
                "Reason": None,
                "Object": "pod/p",
                "Subobject": None,
                "Source": "kubelet, here",
                "Message": None,
                "First Seen": "<unknown>",
                "Count": "3",
                "Name": "a",
            },
        ),
        (
            POD,
            pod({"ready": True, "state": {"running": {}}}, creationTimestamp="2026-01-01T11:59:00Z"),
            {
                "Name": "p",
                "Ready": "1/1",
                "Status": "Running",
                "Restarts": "0",
                "Age": "60s",
                "IP": "127.0.0.1",
                "Node": "<none>",
                "Nominated Node": "<none>",
                "Readiness Gates": "<none>",
            },
        ),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_rows(resource, obj, shown):
    assert cells(resource, obj) == shown


@pytest.mark.parametrize(
    ("include", "kind"), [("Metadata", "PartialObjectMetadata"), ("Object", None), ("None", None)]
)
def test_what_a_row_carries_of_its_object(include, kind):
    record = Record(Key(CONFIG_MAP, "default", "a"), 7, named(data={}), b"")
    (row,) = table(KINDS[CONFIG_MAP], [record], NOW, include=include, metadata={})["rows"]
    if include == "None":
        assert row["object"] is None
    else:
        assert row["object"].get("kind") == kind
        assert ("data" in row["object"]) is (include == "Object")
