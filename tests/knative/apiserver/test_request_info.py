"""What the path of a request names."""

import pytest

from knative.client.resources import NAMESPACE, POD, SERVICE
from knative.local.apiserver import kinds
from knative.local.apiserver.api.request_info import request_info

KINDS = kinds.load()


@pytest.mark.parametrize(
    ("path", "resource", "namespace", "name", "subresource"),
    [
        ("/api/v1/pods", POD, None, None, None),
        ("/api/v1/namespaces/default/pods", POD, "default", None, None),
        ("/api/v1/namespaces/default/pods/a/log", POD, "default", "a", "log"),
        ("/api/v1/namespaces", NAMESPACE, None, None, None),
        ("/api/v1/namespaces/default", NAMESPACE, None, "default", None),
        ("/api/v1/namespaces/default/status", NAMESPACE, None, "default", "status"),
        ("/apis/serving.knative.dev/v1/namespaces/x/services/a/status", SERVICE, "x", "a", "status"),
    ],
)
def test_paths_of_objects(path, resource, namespace, name, subresource):
    found = request_info(path, KINDS)
    assert found is not None
    assert (found.info.resource, found.namespace, found.name, found.subresource) == (
        resource,
        namespace,
        name,
        subresource,
    )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1",
        "/apis/serving.knative.dev/v1",
        "/apis/apps/v1/deployments",
        "/api/v2/pods",
        "/api/v1/pods/a",  # a namespaced kind without its namespace
        "/api/v1/namespaces/default/namespaces/a",
        "/api/v1/namespaces/default/pods/a/b/c",
    ],
)
def test_paths_of_nothing_that_is_served(path):
    assert request_info(path, KINDS) is None
