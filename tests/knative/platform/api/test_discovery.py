"""Discovery and OpenAPI documents."""

from tests.knative.platform.api.raw_http import Raw


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
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    _, same, headers = await raw("GET", "/apis", accept=accept)  # clients fall back by the content type
    assert (same, headers["content-type"]) == (groups, "application/json")
    _, index, _ = await raw("GET", "/openapi/v3")
    for entry in index["paths"].values():
        status, document, headers = await raw("GET", entry["serverRelativeURL"])
        assert (status, headers["cache-control"]) == (200, "public, immutable")
        assert document["components"]["schemas"]
