"""Access to the API, and its paths."""

import asyncio
import ssl

import aiohttp
import pytest
import yaml

from knative.client.cluster import Cluster
from knative.client.errors import Forbidden
from knative.client.resources import EVENT
from tests.knative.platform.api.raw_http import CMS, Raw
from tests.knative.platform.conftest import LocalCluster


async def test_only_health_and_metrics_are_answered_without_the_token(local: LocalCluster):
    base = local.platform.api_url
    for path, status in (("/api/v1/pods", 401), ("/version", 401), ("/healthz", 200), ("/metrics", 200)):
        async with local.http.get(f"{base}{path}") as answer:
            assert answer.status == status, path
    async with local.http.get(f"{base}/api/v1/pods", headers={"Authorization": "Bearer wrong"}) as answer:
        assert (await answer.json())["reason"] == "Unauthorized"


async def test_the_kubeconfig_is_private_and_trusts_the_servers_certificate(local: LocalCluster):
    path = local.platform.kubeconfig
    assert path.stat().st_mode & 0o077 == 0
    assert local.platform.config.state_dir.stat().st_mode & 0o077 == 0
    server = yaml.safe_load(path.read_text())["clusters"][0]["cluster"]["server"]
    assert server.startswith("https://")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await local.http.get(f"{server}/healthz")
    trusted = ssl.create_default_context(cafile=local.platform.config.state_dir / "api.crt")
    async with local.http.get(f"{server}/healthz", ssl=trusted) as answer:
        assert answer.status == 200


async def test_a_silent_connection_does_not_block_others(local: LocalCluster):
    port = int(local.platform.api_url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert await local.cluster.version()
    finally:
        writer.close()


async def test_a_wrong_token_is_forbidden(local: LocalCluster, tmp_path):
    config = yaml.safe_load(local.platform.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = "wrong"
    path = tmp_path / "other"
    path.write_text(yaml.safe_dump(config))
    async with Cluster.from_kubeconfig(path) as other:
        with pytest.raises(Forbidden):
            await other.list(EVENT)


async def test_unknown_paths_are_404_and_other_methods_405(raw: Raw):
    for method, path, status in (
        ("GET", "/apis/nope/v1/things", 404),
        ("GET", f"{CMS}/cm/scale", 404),
        ("PUT", CMS, 405),
        ("GET", "/nowhere", 404),
    ):
        assert (await raw(method, path))[0] == status, path


async def test_an_unknown_kind_and_a_missing_object_get_different_answers(raw: Raw):
    # By the body: without a Status, clients conclude that the kind is not served.
    assert (await raw("GET", "/apis/eventing.knative.dev/v1/brokers"))[1] == "404 page not found\n"
    assert (await raw("GET", f"{CMS}/nope"))[1]["reason"] == "NotFound"


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/pods", "/version"])
async def test_requests_of_web_pages_are_forbidden(raw: Raw, path: str):
    # A name that somebody else's DNS resolves to this machine, and a page of another site.
    for headers in ({"host": "evil.example:8081"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        status, refused, _ = await raw("GET", path, **headers)
        assert (status, refused["reason"]) == (403, "Forbidden"), headers
    for headers in ({"host": "localhost:1"}, {"origin": "http://127.0.0.1:3000"}, {"host": "[::1]:8081"}):
        assert (await raw("GET", path, **headers))[0] == 200, headers


async def test_a_host_can_be_allowed(tmp_path):
    from knative.local.platform.platform import Platform
    from tests.knative.platform.conftest import platform_config

    async with (
        Platform(platform_config(tmp_path, allowed_hosts=["box.example"])) as platform,
        aiohttp.ClientSession() as http,
    ):
        for host, status in (("box.example:8081", 200), ("evil.example", 403)):
            async with http.get(f"{platform.api_url}/metrics", headers={"host": host}) as answer:
                assert answer.status == status
