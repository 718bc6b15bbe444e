"""Discovery and OpenAPI: what there is, told once for all or group by group."""

from tests.knative.platform.api.raw import Raw


async def test_discovery_names_every_kind_and_openapi_describes_it(raw: Raw):
    _, groups, _ = await raw("GET", "/apis")
    assert {group["name"] for group in groups["groups"]} == {
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
