"""Kubernetes objects, among them those that somebody wrote to do harm, read into views."""

from datetime import UTC, datetime, timedelta

import pytest

from warmpool.domain.observation import Hold
from warmpool.reconcile import ownership, parsing
from warmpool.reconcile.ownership import FloorOwnership
from warmpool.reconcile.views import Unscheduled

UNTIL = "2030-01-01T00:00:00Z"
PREFIX = "autoscaling.knative.dev"


def obj(annotations=None, *, spec=None, status=None, **meta):
    return {
        "metadata": {"name": "x", "namespace": "default", "annotations": annotations or {}, **meta},
        "spec": spec or {},
        "status": status or {},
    }


@pytest.mark.parametrize(
    ("replicas", "until", "hold"),
    [
        ("2", UNTIL, Hold(2, datetime(2030, 1, 1, tzinfo=UTC))),
        ("0", UNTIL, Hold(0, datetime(2030, 1, 1, tzinfo=UTC))),
        ("²", UNTIL, None),
        ("٣", UNTIL, None),
        ("9" * 5000, UNTIL, None),
        ("-1", UNTIL, None),
        ("1.5", UNTIL, None),
        ("", UNTIL, None),
        (7, UNTIL, Hold(7, datetime(2030, 1, 1, tzinfo=UTC))),
        (True, UNTIL, None),
        (None, UNTIL, None),
        ("2", "soon", None),
        ("2", "0001-01-01T00:00:00+23:59", None),
        ("2", 5, None),
        ("2", None, None),
    ],
)
def test_a_hold_is_read_strictly(replicas, until, hold):
    annotations = {ownership.HOLD_REPLICAS: replicas, ownership.HOLD_UNTIL: until}
    assert parsing.parse_pool(obj(annotations, spec={"target": "s"})).hold == hold


@pytest.mark.parametrize("spec", [None, [], "x", 5, {"target": 5}, {"target": "s", "windows": {}}])
def test_a_spec_that_cannot_be_read_says_why(spec):
    pool = parsing.parse_pool({**obj(), "spec": spec})
    assert pool.spec is None
    assert pool.problems


def test_the_spec_of_an_unchanged_generation_is_the_same_object():
    first = parsing.parse_pool(obj(spec={"target": "s"}, generation=1, uid="u"))
    again = parsing.parse_pool(obj(spec={"target": "s"}, generation=1, uid="u"), first)
    other = parsing.parse_pool(obj(spec={"target": "s"}, generation=2, uid="u"), first)
    assert again.spec is first.spec
    assert other.spec is not first.spec


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        ({}, 0),
        ({"nvidia.com/gpu": "2"}, 2),
        ({"nvidia.com/gpu": 2}, 2),
        ({"nvidia.com/gpu": "²"}, 0),
        ({"nvidia.com/mig-1g.10gb": "4"}, 4),
        ({"nvidia.com/gpu.shared": "4"}, 4),
        ({"amd.com/gpu": "4"}, 4),
        ({"nvidia.com/gpumem": "4"}, 0),
        ({"cpu": "8", "memory": "1Gi"}, 0),
    ],
)
def test_the_gpus_of_a_replica_by_every_device_plugins_name(limits, gpus):
    containers = [{"resources": {"limits": limits}}, {}]
    service = parsing.parse_service(obj(spec={"template": {"spec": {"containers": containers}}}))
    assert service.gpus == gpus


def test_a_service_is_read_with_its_traffic_and_its_deadlines():
    status = {
        "url": "http://x.example.com",
        "address": {"url": "http://x.default.svc"},
        "latestCreatedRevisionName": "x-2",
        "traffic": [
            {"revisionName": "x-1", "percent": 90, "latestRevision": True},
            {"revisionName": "x-2", "tag": "canary"},
            {"latestRevision": True},
        ],
    }
    annotations = {"serving.knative.dev/progress-deadline": "20m", ownership.GPU: "nvidia-l4"}
    spec = {"template": {"metadata": {"annotations": annotations}, "spec": {"timeoutSeconds": 900}}}
    service = parsing.parse_service(obj(spec=spec, status=status))
    assert [(share.revision, share.percent, share.tag, share.latest) for share in service.traffic] == [
        ("x-1", 90, None, True),
        ("x-2", 0, "canary", False),
    ]
    assert (service.progress_deadline_s, service.timeout_s, service.gpu) == (1200.0, 900.0, "nvidia-l4")


@pytest.mark.parametrize(
    ("annotations", "min_scale", "user", "owner"),
    [
        ({}, None, None, None),
        ({f"{PREFIX}/min-scale": "3"}, 3, 3, None),
        ({f"{PREFIX}/minScale": "3"}, 3, 3, None),
        ({f"{PREFIX}/min-scale": "three"}, None, None, None),
        ({f"{PREFIX}/min-scale": "9" * 5000}, None, None, None),
        (
            {f"{PREFIX}/min-scale": "2", ownership.POOL: "p", ownership.WRITTEN: "2", ownership.USER: "1"},
            2,
            1,
            FloorOwnership("p", 2, 1, None),
        ),
        (
            {f"{PREFIX}/min-scale": "5", ownership.POOL: "p", ownership.WRITTEN: "2", ownership.USER: "1"},
            5,
            5,
            FloorOwnership("p", 2, 1, None),
        ),
        (  # as earlier builds wrote them
            {f"{PREFIX}/min-scale": "2", "pilotlight.dev/pool": "p", "pilotlight.dev/min-scale-written": "2"},
            2,
            None,
            FloorOwnership("p", 2, None, None),
        ),
        ({ownership.POOL: "p", ownership.WRITTEN: "²"}, None, None, FloorOwnership("p", None, None, None)),
    ],
)
def test_the_floor_and_the_owner_of_a_revision(annotations, min_scale, user, owner):
    revision = parsing.parse_revision(obj(annotations))
    assert (revision.min_scale, revision.user_min_scale, revision.ownership) == (min_scale, user, owner)


@pytest.mark.parametrize(("text", "limit"), [("0", None), ("5", 5), ("x", None), (None, None)])
def test_a_max_scale_of_zero_is_no_limit(text, limit):
    annotations = {f"{PREFIX}/max-scale": text} if text else {}
    assert parsing.parse_revision(obj(annotations)).max_scale == limit


def pod(reason, **meta):
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": f"{reason}!"}
    return obj(status={"conditions": [condition]}, **meta)


def test_pods_that_find_no_node_are_counted():
    pods = [pod("Unschedulable"), pod("Unschedulable"), pod("SchedulingGated"), obj()]
    assert parsing.parse_unscheduled(pods) == Unscheduled(2, "Unschedulable!")
    assert parsing.parse_unscheduled([pod("Unschedulable", deletionTimestamp=UNTIL)]) is None


@pytest.mark.parametrize(
    ("status", "desired", "actual"),
    [({}, None, None), ({"desiredScale": -1}, None, None), ({"desiredScale": 2, "actualScale": 0}, 2, 0)],
)
def test_an_autoscaler_without_data_is_unknown(status, desired, actual):
    view = parsing.parse_autoscaler(obj(status=status))
    assert (view.desired, view.actual, view.written_by) == (desired, actual, None)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-23T12:00:00Z", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        ("2026-11-23T12:00:00+01:00", datetime(2026, 11, 23, 11, tzinfo=UTC)),
        ("2026-11-23T12:00:00", datetime(2026, 11, 23, 12, tzinfo=UTC)),
        ("9999-12-31T23:59:59-23:59", None),
        ("x" * 10_000, None),
        ("", None),
        (None, None),
    ],
)
def test_timestamps(text, instant):
    assert ownership.parse_instant(text) == instant
    if instant:
        assert ownership.parse_instant(ownership.timestamp(instant + timedelta(0))) == instant
