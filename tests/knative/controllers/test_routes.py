"""Where a Route's traffic goes, what its status says, and how it is noted on its targets."""

import pytest

from knative.local.controllers.desired_state import routes
from knative.local.controllers.desired_state.routes import Targets
from knative.local.routing import RevisionKey, TrafficTarget
from tests.knative.controllers.objects import EARLIER, NOW, configuration, found, revision, route

LATEST = {"configurationName": "a", "latestRevision": True, "percent": 100}


def url_of(name, namespace):
    return f"http://{name}.{namespace}.localhost:8080"


def lookup(*objects):
    return {item["metadata"]["name"]: item for item in objects}.get


def status(route_obj, configurations=(), revisions=()):
    resolved = routes.resolve(route_obj, lookup(*configurations), lookup(*revisions), url_of)
    return routes.status(route_obj, resolved, url_of, NOW)


def test_traffic_is_resolved_to_revisions_with_shares_and_tags():
    made = status(
        route({**LATEST, "percent": 70, "tag": "new"}, {"revisionName": "a-00001", "percent": 30}),
        [configuration(latest_ready="a-00002")],
        [revision("a-00001"), revision("a-00002")],
    )
    assert made["traffic"] == [
        {
            "latestRevision": True,
            "percent": 70,
            "revisionName": "a-00002",
            "tag": "new",
            "url": "http://new-a.default.localhost:8080",
        },
        {"latestRevision": False, "percent": 30, "revisionName": "a-00001"},
    ]
    assert made["url"] == "http://a.default.localhost:8080"
    assert made["address"] == {"url": "http://a.default.svc.cluster.local"}
    assert found(made) == ("True", "", "")


@pytest.mark.parametrize(
    ("entry", "configurations", "revisions", "ready"),
    [
        (
            LATEST,
            [],
            [],
            ("False", "ConfigurationMissing", 'Configuration "a" referenced in traffic not found.'),
        ),
        (
            LATEST,
            [configuration()],
            [],
            ("Unknown", "RevisionMissing", 'Configuration "a" is waiting for a Revision to become ready.'),
        ),
        (
            LATEST,
            [configuration(ready="False")],
            [],
            ("False", "RevisionMissing", 'Configuration "a" does not have any ready Revision.'),
        ),
        (
            {"revisionName": "a-one", "percent": 100},
            [],
            [],
            ("False", "RevisionMissing", 'Revision "a-one" referenced in traffic not found.'),
        ),
        (
            {"revisionName": "a-one", "percent": 100},
            [],
            [revision("a-one", ready="Unknown")],
            ("Unknown", "RevisionMissing", 'Revision "a-one" referenced in traffic is not yet ready.'),
        ),
        (
            {"revisionName": "a-one", "percent": 100},
            [],
            [revision("a-one", ready="False")],
            ("False", "RevisionMissing", 'Revision "a-one" referenced in traffic failed to become ready.'),
        ),
    ],
)
def test_what_is_missing_is_named_and_the_traffic_of_before_stays(entry, configurations, revisions, ready):
    before = [{"latestRevision": True, "percent": 100, "revisionName": "a-00000"}]
    made = status(route(entry, status=before), configurations, revisions)
    assert found(made, "AllTrafficAssigned") == found(made) == ready
    assert made["traffic"] == before


def test_a_cluster_local_route_has_its_url_inside_of_the_cluster():
    labels = {"networking.knative.dev/visibility": "cluster-local"}
    made = status(route(LATEST, labels=labels), [configuration(latest_ready="a-00001")])
    assert made["url"] == made["address"]["url"]


def test_the_activator_gets_shares_and_tags():
    traffic = [
        {"revisionName": "a-00002", "percent": 100},
        {"revisionName": "a-00001", "percent": 0, "tag": "old"},
    ]
    assert routes.splits(route(status=traffic)) == (
        TrafficTarget(RevisionKey("default", "a-00002"), 100),
        TrafficTarget(RevisionKey("default", "a-00001"), 0, "old"),
    )


@pytest.mark.parametrize(
    ("route_obj", "expected"),
    [
        pytest.param(route(), Targets(frozenset(), frozenset()), id="no traffic"),
        pytest.param(
            route(LATEST, status=[{"revisionName": "a-00001", "percent": 100}]),
            Targets(frozenset({"a"}), frozenset({"a-00001", "a-00002"})),
            id="the latest created Revision is one already",
        ),
        pytest.param(
            route(
                {"revisionName": "a-00001", "percent": 100},
                status=[{"revisionName": "a-00001", "percent": 100}],
            ),
            Targets(frozenset({"a"}), frozenset({"a-00001"})),
            id="a Revision by name, and its Configuration",
        ),
        pytest.param(
            route({"revisionName": "a-00001", "percent": 0, "tag": "old"}),
            Targets(frozenset({"a"}), frozenset({"a-00001"})),
            id="a tag without a share",
        ),
        pytest.param(
            route({"revisionName": "a-00001", "percent": 0}),
            Targets(frozenset(), frozenset()),
            id="neither share nor tag",
        ),
        pytest.param(
            route({"revisionName": "b-00001", "percent": 100}),
            Targets(frozenset(), frozenset()),
            id="a Revision that does not exist",
        ),
    ],
)
def test_a_routes_targets_are_what_status_and_specification_name(route_obj, expected):
    configs = lookup(configuration(latest_ready="a-00001", latest_created="a-00002"))
    revisions = lookup(revision("a-00001"), revision("a-00002", generation=2))
    assert routes.targets(route_obj, configs, revisions) == expected


@pytest.mark.parametrize(
    ("before", "listed", "routed", "after", "listed_after"),
    [
        ("pending", None, True, "active", "r"),
        ("reserve", None, True, "active", "r"),
        ("active", "r", False, "reserve", None),
        ("active", "r,s", False, "active", "s"),
        ("active", "s", True, "active", "r,s"),
    ],
)
def test_a_revisions_routing_state_follows_its_routes(before, listed, routed, after, listed_after):
    target = revision("a-00001", state=before, routes=listed)
    changed = routes.with_route(target, "r", routed=routed, now=NOW)["metadata"]
    assert changed["labels"]["serving.knative.dev/routingState"] == after
    assert changed["annotations"].get("serving.knative.dev/routes") == listed_after
    modified = changed["annotations"].get("serving.knative.dev/routingStateModified")
    assert modified == (NOW if before != after else None)
    assert target["metadata"]["labels"]["serving.knative.dev/routingState"] == before


@pytest.mark.parametrize(
    ("target", "routed"),
    [
        (revision("a-00001", state="active", routes="r"), True),
        (revision("a-00001", state="reserve"), False),
        (revision("a-00001", state="pending"), False),
        (configuration(routes="r"), True),
        (configuration(), False),
    ],
)
def test_a_target_that_says_so_already_is_left_alone(target, routed):
    assert routes.with_route(target, "r", routed=routed, now=EARLIER) is None


def test_a_configuration_gets_the_annotation_and_no_routing_state():
    changed = routes.with_route(configuration(), "r", routed=True, now=NOW)
    assert changed["metadata"]["annotations"] == {"serving.knative.dev/routes": "r"}
    assert "labels" not in changed["metadata"]
