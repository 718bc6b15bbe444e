"""What `pilotlight status` warns of before it hurts."""

import pytest

from pilotlight.service_warnings import rollout_in_short, service_warnings


def service(*, annotations=None, probe=True, **spec):
    container = {"image": "x"} | (
        {"readinessProbe": {"httpGet": {"path": "/healthz/ready"}}} if probe else {}
    )
    template = {"metadata": {"annotations": annotations or {}}, "spec": {"containers": [container], **spec}}
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": {"template": template}}


def sample(name, value, **labels):
    return name, {"namespace": "default", "service": "a", "revision": "a-00001", **labels}, float(value)


def start(seconds, name="a"):
    return sample("pilotlight_start_seconds", seconds, service=name)


def call(method, path, agent, number=60):
    return sample("pilotlight_recent_requests", number, method=method, path=path, user_agent=agent)


WINDOW = "autoscaling.knative.dev/window"
SCRAPE = call("GET", "/metrics", "Prometheus/3.1")


@pytest.mark.parametrize(
    ("given", "pool", "samples", "said"),
    [
        (service(), None, [], []),
        (service(), None, [start(89)], []),
        (service(), None, [start(500, "b")], []),
        (service(), None, [start(95)], ["90 s without requests scale it to zero, as soon as it has started"]),
        (service(probe=False), None, [start(95)], ["while it still loads"]),
        (service(annotations={WINDOW: "120s"}), None, [start(95)], []),
        (
            service(),
            {"coldStart": {"p95": "95.0s"}},
            [],
            ["set scaling.window or scaling.scaleDownDelay to 95s"],
        ),
        (
            service(annotations={WINDOW: "600s"}),
            None,
            [start(301)],
            ["longer than timeoutSeconds (300 s): the request that causes it ends in 504"],
        ),
        (
            service(annotations={WINDOW: "600s"}, timeoutSeconds=600, responseStartTimeoutSeconds=60),
            None,
            [start(61)],
            ["longer than responseStartTimeoutSeconds (60 s)"],
        ),
        (
            service(),
            None,
            [sample("pilotlight_abandoned_requests_total", 3), start(40)],
            ["3 clients gave up while they waited for a start, which takes 40 s; the starts were finished"],
        ),
        (service(), None, [SCRAPE], ["GET /metrics by Prometheus/3.1, 60 in 5 minutes"]),
        (service(), None, [SCRAPE, call("GET", "/health", "")], ["nothing but probes and scrapes"]),
        (service(), None, [SCRAPE, call("POST", "/invoke", "", 1)], []),
        (service(), None, [call("GET", "/", "curl/8.5", 1)], []),
    ],
)
def test_a_warning_names_what_will_hurt_and_what_helps(given, pool, samples, said):
    found = service_warnings(given, pool, samples)
    assert len(found) == len(said), found
    for text, part in zip(found, said, strict=True):
        assert part in text


@pytest.mark.parametrize(
    ("rollout", "short", "warned"),
    [
        (None, "", []),
        ({"phase": "Steady", "percent": 0}, "", []),
        ({"phase": "Analysing", "canary": "a-2", "percent": 5}, "rollout Analysing: a-2 5 %", []),
        ({"phase": "RolledBack", "canary": "a-2", "detail": "a-2 was worse"}, "", ["a-2 was worse"]),
    ],
)
def test_a_rollout_is_told_in_short_and_warned_of_once_it_has_stopped(rollout, short, warned):
    pool = {"rollout": rollout} if rollout else {}
    service = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"template": {"spec": {}}}}
    assert rollout_in_short(pool) == short
    assert service_warnings(service, pool, []) == warned
