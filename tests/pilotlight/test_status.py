"""What `pilotlight status` makes of URLs and of the platform's metrics."""

import pytest

from pilotlight.service_urls import reachable_url
from pilotlight.service_warnings import kept_by


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, None),
        ("http://a.default.localhost:8080", "http://localhost:8080/default/a/"),
        ("http://a.default.localhost", "http://localhost/default/a/"),
        ("https://a.default.example.com", "https://a.default.example.com"),
        ("http://a.default.svc.cluster.local", "http://a.default.svc.cluster.local"),
    ],
)
def test_a_url_is_printed_in_the_form_that_needs_no_resolver(url, expected):
    service = {"metadata": {"name": "a", "namespace": "default"}, "status": {"url": url} if url else {}}
    assert reachable_url(service) == expected


def test_a_service_that_is_private_to_a_cluster_answers_at_the_gateway_of_this_machine():
    service = {
        "metadata": {"name": "a", "namespace": "default"},
        "status": {"url": "http://a.default.svc.cluster.local"},
    }
    assert reachable_url(service, "http://127.0.0.1:8080") == "http://localhost:8080/default/a/"


def sample(path, number, *, agent="", method="GET", service="a", name="pilotlight_recent_requests"):
    labels = {
        "namespace": "default",
        "service": service,
        "revision": "a-00001",
        "method": method,
        "path": path,
        "user_agent": agent,
    }
    return name, labels, float(number)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], ""),
        ([sample("/", 3, service="b")], ""),
        ([sample("/", 3, name="other")], ""),
        (
            [sample("/metrics", 60, agent="Prometheus/3.1")],
            "requests: GET /metrics by Prometheus/3.1, 60 in 5 minutes",
        ),
        (
            [sample("/metrics", 5), sample("/invoke", 9, method="POST", agent="curl/8.5")],
            "requests: POST /invoke by curl/8.5, 9 in 5 minutes, and 5 others",
        ),
        ([sample("", 7, method="")], "requests: many kinds, 7 in 5 minutes"),
    ],
)
def test_the_most_frequent_requests_are_named(samples, expected):
    assert kept_by("default", "a", samples) == expected
