"""Discovery and OpenAPI: what there is, told once for all or group by group."""

import pytest

from tests.knative.platform.api.raw import Raw


async def test_discovery_names_every_kind_and_openapi_describes_it(raw: Raw):
    _, groups, _ = await raw("GET", "/apis")
    assert {group["name"] for group in groups["groups"]} >= {
        "autoscaling.internal.knative.dev",
        "coordination.k8s.io",
        "pilotlight.dev",
        "serving.knative.dev",
    }
    _, resources, _ = await raw("GET", "/apis/serving.knative.dev/v1")
    names = {item["name"]: item for item in resources["resources"]}
    assert names["services"]["shortNames"] == ["kservice", "ksvc"]
    assert "revisions/status" in names
    _, index, _ = await raw("GET", "/openapi/v3")
    for entry in index["paths"].values():
        status, document, _ = await raw("GET", entry["serverRelativeURL"])
        assert status == 200
        assert document["components"]["schemas"]


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
async def test_one_document_tells_what_all_the_lists_tell(raw: Raw, version):
    accept = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList,application/json"
    told = {}
    for root in ("/api", "/apis"):
        _, document, headers = await raw("GET", root, accept=accept)
        assert document["apiVersion"] == f"apidiscovery.k8s.io/{version}"
        assert f"v={version};as=APIGroupDiscoveryList" in headers["content-type"]
        for group in document["items"]:
            name = group["metadata"].get("name")
            for number in group["versions"]:
                path = f"/apis/{name}/{number['version']}" if name else f"/api/{number['version']}"
                told[path] = number["resources"]
    _, groups, _ = await raw("GET", "/apis")
    listed = {version["groupVersion"] for group in groups["groups"] for version in group["versions"]}
    assert set(told) == {"/api/v1", *(f"/apis/{name}" for name in listed)}
    for path, resources in told.items():
        _, content, _ = await raw("GET", path)
        flat = []
        for item in resources:
            scope = item["scope"] == "Namespaced"
            flat.append((item["resource"], item["singularResource"], scope, item["verbs"]))
            for below in item.get("subresources", ()):
                flat.append((f"{item['resource']}/{below['subresource']}", "", scope, below["verbs"]))
        assert flat == [
            (item["name"], item["singularName"], item["namespaced"], item["verbs"])
            for item in content["resources"]
        ]


async def test_clients_can_keep_what_does_not_change(raw: Raw):
    _, _, headers = await raw("GET", "/apis")
    assert (await raw("GET", "/apis", if_none_match=headers["etag"]))[0] == 304
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    assert (await raw("GET", "/apis", if_none_match=headers["etag"], accept=accept))[0] == 200
    _, index, _ = await raw("GET", "/openapi/v3")
    url = index["paths"]["apis/pilotlight.dev/v1alpha1"]["serverRelativeURL"]
    _, document, headers = await raw("GET", url)
    assert headers["cache-control"] == "public, immutable"
    # Whoever has an old address is led to the new one.
    assert (await raw("GET", f"{url.partition('?')[0]}?hash=old"))[1] == document
