"""Counts of recent requests by caller, which explain why a Service does not scale to zero."""

import pytest

from knative.local.activator.recent_requests import OTHERS, Caller, RecentRequests, caller_of

SCRAPE = Caller("GET", "/metrics", "Prometheus/3.1")


@pytest.mark.parametrize(
    ("headers", "path", "expected"),
    [
        ([(b"user-agent", b"Prometheus/3.1 (linux)")], b"/metrics", SCRAPE),
        ([], b"/metrics", Caller("GET", "/metrics", "")),
        ([(b"user-agent", b"x" * 500)], b"/" + b"y" * 500, Caller("GET", "/" + "y" * 79, "x" * 80)),
    ],
)
def test_requests_are_told_apart_by_path_and_user_agent(headers, path, expected):
    assert caller_of("GET", path, headers) == expected


def test_requests_are_counted_for_five_minutes():
    recent = RecentRequests(0.0)
    for minute in range(10):
        recent.add(SCRAPE, minute * 60.0 + 1)
    assert recent.counts(9 * 60.0 + 30) == {SCRAPE: 5}
    assert recent.counts(12 * 60.0 + 30) == {SCRAPE: 2}
    assert recent.counts(100 * 60.0) == {}


def test_many_kinds_of_requests_take_no_more_memory():
    recent = RecentRequests(0.0)
    for number in range(1000):
        recent.add(Caller("GET", f"/{number}", ""), 1.0)
    counts = recent.counts(2.0)
    assert len(counts) == 21
    assert counts[OTHERS] == 980


async def test_the_metrics_name_the_most_frequent_callers(gateway):
    await gateway.running()
    for _ in range(3):
        await gateway.get("/metrics?x=1", headers={"User-Agent": "Prometheus/3.1"})
    line = next(
        line
        for line in gateway.activator.metrics().splitlines()
        if line.startswith("pilotlight_recent_requests{")
    )
    for part in ('service="a"', 'path="/metrics"', 'user_agent="Prometheus/3.1"', 'method="GET"'):
        assert part in line
    assert line.endswith(" 3.0")
