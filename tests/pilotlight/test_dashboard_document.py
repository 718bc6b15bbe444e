"""What the dashboard shows, as a function of objects, readings and an instant."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from pilotlight.dashboard.detail import calendar, detail
from pilotlight.dashboard.document import Observed, agents, document
from pilotlight.dashboard.history import SPACING_S, SPAN_S, History, RecentStarts
from pilotlight.service_readings import Rates, ServiceReading, rates, read_services

NOW = datetime(2026, 12, 1, 10, 30, tzinfo=UTC)  # a Tuesday


def service(name, *, agent=None, kind=None, calls=(), ready="True"):
    labels = {"pilotlight.dev/agent": agent, "pilotlight.dev/stage": kind}
    stages = [
        {"name": called, "kind": "x", "url": f"http://{called}.default.svc.cluster.local"} for called in calls
    ]
    env = [{"name": "PILOTLIGHT_STAGES", "value": json.dumps(stages)}] if calls else []
    return {
        "metadata": {"name": name, "namespace": "default", "generation": 1,
                     "labels": {key: value for key, value in labels.items() if value}},
        "spec": {"template": {"metadata": {}, "spec": {"containers": [{"env": env}]}}},
        "status": {"observedGeneration": 1, "latestReadyRevisionName": f"{name}-00001",
                   "conditions": [{"type": "Ready", "status": ready, "reason": "Why", "message": "so"}]},
    }  # fmt: skip


def pool(name="a", *, status=None, annotations=None, **spec):
    return {
        "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
        "spec": {"target": name, **spec},
        "status": status or {},
    }


def pod(name="a-00001-x", *, ready="True", labels=("a",), uid="1"):
    return {
        "metadata": {"name": name, "namespace": "default", "uid": uid, "labels": {"serving.knative.dev/service": labels[0]},
                     "annotations": {"pilotlight.dev/scheduled-at": "2026-12-01T10:00:00.5+00:00",
                                     "pilotlight.dev/ready-at": "2026-12-01T10:00:08+00:00"}},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }  # fmt: skip


def test_an_empty_cluster_is_an_empty_document():
    shown = document(Observed(NOW))
    assert shown["slots"] is None
    assert {key: value for key, value in shown.items() if value} == {"now": "2026-12-01T10:30:00+00:00"}


def test_unknown_is_null_and_what_failed_is_said():
    shown = document(Observed(NOW, [service("a", ready="False")], problems=["pods: forbidden"]))
    (a,) = shown["services"]
    assert (a["ready"], a["why"], a["pool"]) == ("not yet", "Why so", None)
    assert [a[key] for key in ("desired", "demand", "requestsPerSecond", "ttft", "gpuSeconds")] == [None] * 5
    assert shown["problems"] == ["pods: forbidden"]
    json.dumps(shown, allow_nan=False)


def test_a_service_shows_its_reading_its_rates_and_why():
    status = {"held": "1 hot", "reason": "schedule/office", "ready": 1}
    reading = ServiceReading(
        "yes", desired=2, replicas_ready=1, replicas_pending=1, floor=1, warmth=("hot",), demand=1.26
    )
    recent = (
        "pilotlight_recent_requests",
        {"namespace": "default", "service": "a", "method": "POST", "path": "/invoke", "user_agent": "x"},
        3.0,
    )
    shown = document(
        Observed(NOW, [service("a")], [pool(status=status)], (), {"default/a": reading},
                 {"default/a": Rates(2.0, 0.1234567, 50.0)}, [recent])
    )  # fmt: skip
    (a,) = shown["services"]
    assert (a["replicas"], a["pending"], a["floor"], a["desired"], a["demand"]) == (1, 1, 1, 2, 1.26)
    assert (a["requestsPerSecond"], a["ttft"], a["tokensPerSecond"]) == (2.0, 0.123, 50.0)
    assert a["why"] == "schedule/office; requests: POST /invoke by x, 3 in 5 minutes"
    assert a["pool"] == "default/a"


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, None),
        ({"pilotlight.dev/hold-replicas": "2", "pilotlight.dev/hold-until": "2026-12-01T10:00:00Z"}, None),
        ({"pilotlight.dev/hold-replicas": "2", "pilotlight.dev/hold-until": "nonsense"}, None),
        (
            {"pilotlight.dev/hold-replicas": "2", "pilotlight.dev/hold-until": "2026-12-01T11:00:00Z"},
            {"replicas": "2", "until": "2026-12-01T11:00:00+00:00"},
        ),
    ],
)
def test_only_a_hold_that_lasts_is_shown(annotations, expected):
    assert document(Observed(NOW, pools=[pool(annotations=annotations)]))["pools"][0]["hold"] == expected


def test_costs_of_one_currency_are_added_and_of_others_not():
    def costs(amount, currency, budget=None):
        return {"cost": {"toDate": amount, "currency": currency} | ({"budget": budget} if budget else {})}

    pools = [pool("a", status=costs("1.10", "USD", "5")), pool("b", status=costs("2.20", "USD")),
             pool("c", status=costs("4", "EUR")), pool("d")]  # fmt: skip
    assert document(Observed(NOW, pools=pools))["cost"] == [
        {"currency": "EUR", "toDate": "4", "projected": None, "budget": None},
        {"currency": "USD", "toDate": "3.30", "projected": None, "budget": "5"},
    ]


def test_an_agent_is_a_graph_of_its_stages_in_the_order_of_calls():
    services = [service("gen", agent="s", kind="generate"), service("in", agent="s", kind="ingest"),
                service("orch", agent="s", kind="orchestrate", calls=("in", "gen")), service("other")]  # fmt: skip
    trigger = {"metadata": {"name": "q", "namespace": "default"}, "spec": {"target": {"service": "orch"}}}
    (agent,) = agents(services, [trigger])
    assert [stage["service"] for stage in agent["stages"]] == ["default/orch", "default/in", "default/gen"]
    assert agent["calls"] == [["default/orch", "default/in"], ["default/orch", "default/gen"]]
    assert agent["queues"] == [["default/q", "default/orch"]]


@pytest.mark.parametrize("value", ["", "{", "[1]", "[{}]", "null", '{"a": 1}'])
def test_a_variable_that_is_no_list_of_stages_is_no_edge(value):
    broken = service("a", agent="s")
    broken["spec"]["template"]["spec"]["containers"] = [
        {"env": [{"name": "PILOTLIGHT_STAGES", "value": value}]}
    ]
    assert agents([broken], [])[0]["calls"] == []


def test_readings_come_from_revision_pods_and_both_kinds_of_metrics():
    knative = {"namespace_name": "default", "service_name": "a"}
    platform = [("autoscaler_desired_pods", knative, 2.0), ("autoscaler_stable_request_concurrency", knative, 3.0),
                ("autoscaler_target_concurrency_per_pod", knative, 2.0), ("activator_request_count", knative, 7.0)]  # fmt: skip
    own = [("pilotlight_replica_state", {"pilotlight_replica_state": "hot"}, 1.0),
           ("pilotlight_replica_state", {"pilotlight_replica_state": "cold"}, 0.0),
           ("pilotlight_tokens_total", {"direction": "completion"}, 40.0), ("pilotlight_tokens_total", {"direction": "prompt"}, 9.0)]  # fmt: skip
    revision = {
        "metadata": {
            "name": "a-00001",
            "namespace": "default",
            "annotations": {"autoscaling.knative.dev/min-scale": "1"},
        }
    }
    found = read_services(
        [service("a")],
        [revision],
        [pod(), pod("p", ready="False", uid="2")],
        platform,
        {("default", "a-00001-x"): own},
    )
    assert found == {
        "default/a": ServiceReading("yes", desired=2, replicas_ready=1, replicas_pending=1, floor=1, warmth=("hot",),
                                    demand=1.5, requests=7.0, tokens=40.0)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, ServiceReading("yes", requests=5), Rates()),
        (ServiceReading("yes", requests=5), ServiceReading("yes", requests=9), Rates(requests_per_s=2.0)),
        (ServiceReading("yes", requests=5), ServiceReading("yes", requests=4), Rates(requests_per_s=2.0)),
        (
            ServiceReading("yes", first_tokens=1, first_token_seconds=1, tokens=10),
            ServiceReading("yes", first_tokens=3, first_token_seconds=2, tokens=30),
            Rates(ttft_s=0.5, tokens_per_s=10.0),
        ),
        (ServiceReading("yes", first_tokens=1, first_token_seconds=1), ServiceReading("yes", first_tokens=1, first_token_seconds=1), Rates()),
    ],
)  # fmt: skip
def test_rates_are_differences_of_counters(before, now, expected):
    assert rates(before, now, 2.0) == expected


def test_the_history_is_an_hour_and_runs_of_equal_points_are_two():
    history = History()
    for step in range(2000):
        floor = 1 if step >= 1900 else 0
        history.add(step * SPACING_S, {"a": ServiceReading("yes", floor=floor)}, {})
    points = history.points("a")
    assert [(row[0], row[1]) for row in points] == [
        (0.0, 0.0), (1899 * SPACING_S, 0.0), (1900 * SPACING_S, 1.0), (1999 * SPACING_S, 1.0)
    ]  # fmt: skip
    assert points[0][3] is None
    history.add(2000 * SPACING_S + SPAN_S, {"a": ServiceReading("yes", floor=2)}, {})
    assert len(history.points("a")) == 2, "what the hour begins with, and now"
    history.add(1e6, {"b": ServiceReading("yes")}, {})
    assert history.points("a") == []


def test_starts_outlive_their_replicas_and_get_their_phases_later():
    starts = RecentStarts()
    starts.add([pod()], {})
    assert starts.of("default/a")[0].phases == {}
    labels = {"warmth": "cold"}
    own = [
        ("pilotlight_cold_start_seconds_sum", {**labels, "phase": name}, value)
        for name, value in (("init", 1.0), ("import", 5.0), ("total", 7.0))
    ]
    starts.add([pod(), pod("p", ready="False", uid="2")], {("default", "a-00001-x"): own})
    starts.add([], {})
    (start,) = starts.of("default/a")
    assert (start.seconds, start.phases) == (7.5, {"init": 1.0, "import": 5.0})
    shown = detail(None, [], [start], NOW)["starts"]
    assert shown[0]["phases"] == [["import", 5.0], ["init", 1.0]], "in the order in which they come"


def test_the_calendar_has_seven_days_of_the_pools_own_clock():
    found = calendar(
        pool(timeZone="Europe/Berlin", status={"leadTime": "10m"},
             windows=[{"name": "late", "days": ["Tue"], "from": "22:00", "to": "02:00", "replicas": 3}]), NOW
    )  # fmt: skip
    assert (found["timeZone"], found["now"]) == ("Europe/Berlin", 11.5)
    parts = {day["date"]: [part[:3] for part in day["parts"]] for day in found["days"]}
    assert len(parts) == 7
    assert {date: part for date, part in parts.items() if part} == {
        "2026-12-01": [[21.8333, 24.0, 3]], "2026-12-02": [[0.0, 2.0, 3]]
    }  # fmt: skip


def test_an_invalid_pool_has_no_calendar_and_says_why():
    broken = pool(timeZone="Nowhere/None")
    assert calendar(broken, NOW) is None
    assert "is invalid" in detail(broken, [], [], NOW + timedelta(0))["explanation"][0]
