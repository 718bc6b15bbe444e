"""What users have today becomes a WarmPool that holds the same."""

from datetime import UTC, datetime, timedelta

import pytest

from warmpool.domain.pool import WarmPoolSpec
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.floors import PoolFloor
from warmpool.experiments.imports import import_pool


def scaled_object(*triggers, **spec):
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "model"},
        "spec": {"scaleTargetRef": {"name": "generate-support"}, "triggers": list(triggers), **spec},
    }


def cron(start="0 8 * * 1-5", end="0 18 * * 1-5", replicas="2", zone="Europe/Berlin"):
    metadata = {"timezone": zone, "start": start, "end": end, "desiredReplicas": replicas}
    return {"type": "cron", "metadata": metadata}


def floor_at(spec, *instant) -> int:
    start = datetime(*instant, tzinfo=UTC)
    return PoolFloor(spec, start, lead=timedelta(0)).decide(0.0)[0].replicas


def test_a_scaled_object_holds_its_cron_triggers_in_its_time_zone():
    found = import_pool(scaled_object(cron(), cooldownPeriod=0))

    assert found.target == "generate-support"
    assert found.notes == ()
    assert floor_at(found.spec, 2026, 3, 2, 7, 30) == 2  # Monday, 08:30 in Berlin
    assert floor_at(found.spec, 2026, 3, 2, 6, 30) == 0
    assert floor_at(found.spec, 2026, 3, 2, 17, 30) == 0
    assert floor_at(found.spec, 2026, 3, 7, 9, 0) == 0  # Saturday
    assert WarmPoolSpec.parse({"target": "x", **found.spec.to_wire()})


def test_what_a_warm_pool_has_no_word_for_is_said():
    found = import_pool(scaled_object(cron(), {"type": "prometheus", "metadata": {}}, minReplicaCount=1))

    assert floor_at(found.spec, 2026, 3, 7, 9, 0) == 1
    assert "type prometheus follows demand" in found.notes[0]
    assert "cooldownPeriod" in found.notes[1]


def test_a_cron_hpa_holds_each_size_until_the_next_job():
    jobs = [
        {"name": "up", "schedule": "0 0 8 * * *", "targetSize": 3},
        {"name": "down", "schedule": "30 0 20 * * *", "targetSize": 1},
    ]
    found = import_pool(
        {
            "kind": "CronHorizontalPodAutoscaler",
            "metadata": {"name": "model"},
            "spec": {"scaleTargetRef": {"name": "model"}, "jobs": jobs},
        }
    )

    assert floor_at(found.spec, 2026, 3, 2, 9, 0) == 3
    assert floor_at(found.spec, 2026, 3, 2, 21, 0) == 1
    assert "its seconds are left out" in found.notes[0]


def test_a_fixed_min_scale_is_the_pools_minimum():
    service = {
        "kind": "Service",
        "metadata": {"name": "model"},
        "spec": {"template": {"metadata": {"annotations": {"autoscaling.knative.dev/min-scale": "2"}}}},
    }

    found = import_pool(service)

    assert found.spec.limits.min == 2
    assert floor_at(found.spec, 2026, 3, 2, 3, 0) == 2


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({"kind": "Deployment"}, "kind = 'Deployment', must be ScaledObject"),
        ([], "must be a Kubernetes object"),
        (scaled_object(), "at least one trigger of type cron"),
        (scaled_object(cron(), cron(zone="UTC")), "time zones Europe/Berlin, UTC, must be one"),
        (scaled_object(cron(end="0 18 * * 5")), "by turns; write a window for each"),
        (scaled_object(cron(start="whenever")), "'whenever' to 0 18"),
        (scaled_object({"type": "cron", "metadata": {"timezone": "UTC"}}), "'start'"),
        ({"kind": "Service", "metadata": {"name": "a"}}, "min-scale = '', must be a whole number above 0"),
    ],
)
def test_what_cannot_be_taken_over_says_why(obj, message):
    with pytest.raises(ExperimentError) as refused:
        import_pool(obj)

    assert message in str(refused.value)
