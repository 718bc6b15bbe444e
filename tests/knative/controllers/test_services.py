"""The Configuration and the Route of a Service, and the status drawn from theirs."""

import pytest

from knative.local import objects
from knative.local.controllers.desired_state import services
from tests.knative.controllers.objects import NOW, condition, configuration, found, route, service

TRAFFIC = [{"latestRevision": True, "percent": 100, "revisionName": "a-00001"}]


def owned(child):
    """A child that belongs to Service `a`."""
    child["metadata"]["ownerReferences"] = [objects.owner_reference(service())]
    return child


def test_the_configuration_has_the_services_template_labels_and_annotations():
    parent = service()
    parent["metadata"]["labels"] = {"team": "x"}
    parent["metadata"]["annotations"] = {
        "note": "y",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }
    made = services.configuration(parent)
    assert made["spec"] == {"template": parent["spec"]["template"]}
    assert made["metadata"]["labels"] == {
        "team": "x",
        "serving.knative.dev/service": "a",
        "serving.knative.dev/serviceUID": "a-service",
    }
    assert made["metadata"]["annotations"] == {"note": "y", "serving.knative.dev/routes": "a"}


def test_the_configuration_keeps_the_routes_of_others():
    made = services.configuration(service(), configuration(routes="a,other"))
    assert made["metadata"]["annotations"]["serving.knative.dev/routes"] == "a,other"


@pytest.mark.parametrize(
    ("traffic", "expected"),
    [
        (None, [{"configurationName": "a", "latestRevision": True, "percent": 100}]),
        (
            [{"latestRevision": True, "percent": 10, "tag": "t"}, {"revisionName": "a-one", "percent": 90}],
            [
                {"configurationName": "a", "latestRevision": True, "percent": 10, "tag": "t"},
                {"revisionName": "a-one", "percent": 90},
            ],
        ),
    ],
)
def test_the_routes_traffic_names_the_services_configuration(traffic, expected):
    parent = service(**({"traffic": traffic} if traffic else {}))
    assert services.route(parent)["spec"]["traffic"] == expected


CONFIGURATION_READY = configuration(latest_ready="a-00001", latest_created="a-00001", ready="True")
CONFIGURATION_FAILED = configuration(latest_created="a-00001")
CONFIGURATION_FAILED["status"]["conditions"] = [condition("Ready", "False", "RevisionFailed", "no GPU")]
STALE = configuration(generation=2, ready="True")
STALE["status"]["observedGeneration"] = 1
ROUTE_READY = route(status=TRAFFIC, ready="True")
ROUTE_BEHIND = route(status=[{**TRAFFIC[0], "revisionName": "a-00000"}], ready="True")


@pytest.mark.parametrize(
    ("config", "route_obj", "ready"),
    [
        (CONFIGURATION_READY, ROUTE_READY, ("True", "", "")),
        (
            None,
            None,
            (
                "Unknown",
                "OutOfDate",
                "The Configuration is still working to reflect the latest desired specification.",
            ),
        ),
        (
            STALE,
            ROUTE_READY,
            (
                "Unknown",
                "OutOfDate",
                "The Configuration is still working to reflect the latest desired specification.",
            ),
        ),
        (CONFIGURATION_FAILED, ROUTE_READY, ("False", "RevisionFailed", "no GPU")),
        (
            CONFIGURATION_READY,
            ROUTE_BEHIND,
            ("Unknown", "TrafficNotMigrated", "Traffic is not yet migrated to the latest revision."),
        ),
    ],
)
def test_ready_is_drawn_from_configuration_and_route(config, route_obj, ready):
    children = [None if child is None else owned(objects.clone(child)) for child in (config, route_obj)]
    assert found(services.status(service(), *children, NOW)) == ready


def test_a_child_of_another_owner_is_named():
    made = services.status(service(), configuration(ready="True"), None, NOW)
    assert found(made, "ConfigurationsReady") == (
        "False",
        "NotOwned",
        'There is an existing Configuration "a" that we do not own.',
    )


def test_the_status_has_the_childrens_addresses_and_names():
    config, route_obj = owned(objects.clone(CONFIGURATION_READY)), owned(objects.clone(ROUTE_READY))
    route_obj["status"] |= {"url": "http://a", "address": {"url": "http://b"}}
    made = services.status(service(), config, route_obj, NOW)
    assert (made["url"], made["address"], made["traffic"]) == ("http://a", {"url": "http://b"}, TRAFFIC)
    assert made["latestReadyRevisionName"] == made["latestCreatedRevisionName"] == "a-00001"


def test_a_failure_that_is_not_final_yet_is_unknown():
    children = owned(objects.clone(CONFIGURATION_FAILED)), owned(objects.clone(ROUTE_READY))
    status = services.status(service(), *children, NOW)
    assert services.failed(status)
    early = services.status(service(), *children, NOW, failures_are_final=False)
    assert not services.failed(early)
    assert found(early) == ("Unknown", "RevisionFailed", "no GPU")
