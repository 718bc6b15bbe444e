"""An agent without an image runs on the local platform, and is refused for a cluster before anything is written."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from knative.client.cluster import Cluster
from pilotlight import deploy
from pilotlight.agent_reader import load_agent
from pilotlight.compile import NO_IMAGE, compile_agent

AGENT = {
    "apiVersion": "pilotlight.dev/v1alpha1",
    "kind": "Agent",
    "metadata": {"name": "a"},
    "spec": {"stages": [{"name": "post", "kind": "postprocess"}]},
}


def compiled(folder: Path, image: str | None = None, auth: str | None = None) -> list[dict]:
    spec = AGENT["spec"] | ({"image": image} if image else {}) | ({"auth": auth} if auth else {})
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump({**AGENT, "spec": spec}))
    return compile_agent(load_agent(path))


class Server:
    """A Kubernetes API that says which version it is and takes everything."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.seen: list[str] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.seen.append(f"{request.method} {request.path}")
        if request.path == "/version":
            return web.json_response({"gitVersion": self.version})
        return web.json_response({"metadata": {"name": "a-post", "generation": 1}})


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator:
    runners = []

    async def start(version: str) -> tuple[Server, Cluster]:
        server = Server(version)
        runner = web.ServerRunner(web.Server(server.handle))
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        content = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return server, Cluster.from_kubeconfig(path)

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize("act", [deploy.check, deploy.apply])
async def test_a_cluster_needs_an_image(connect, tmp_path, act):
    server, cluster = await connect("v1.34.1")
    async with cluster:
        with pytest.raises(
            deploy.DeployError, match=r"spec\.image is required on a cluster, for post-a: build"
        ):
            await act(cluster, compiled(tmp_path))
    assert server.seen == ["GET /version"]


async def test_the_local_platform_needs_none(connect, tmp_path):
    server, cluster = await connect("v1.34.0+pilotlight")
    async with cluster:
        await deploy.check(cluster, compiled(tmp_path))
    assert [entry.partition(" ")[0] for entry in server.seen] == ["GET", "PATCH"]


async def test_an_image_is_taken_as_it_is(connect, tmp_path):
    server, cluster = await connect("v1.34.1")
    (service,) = compiled(tmp_path, "registry.example.com/functions:1", "none")
    (container,) = service["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/functions:1"
    async with cluster:
        await deploy.check(cluster, [service])
    assert [entry.partition(" ")[0] for entry in server.seen] == ["GET", "PATCH"]


@pytest.mark.parametrize("act", [deploy.check, deploy.apply])
async def test_a_cluster_needs_to_be_told_who_may_call(connect, tmp_path, act):
    server, cluster = await connect("v1.34.1")
    async with cluster:
        with pytest.raises(deploy.DeployError, match=r"spec\.auth is required on a cluster, for post-a"):
            await act(cluster, compiled(tmp_path, "registry.example.com/functions:1"))
    assert server.seen == ["GET /version"]


def test_the_image_of_an_agent_that_names_none_can_be_nobodys(tmp_path):
    (service,) = compiled(tmp_path)
    assert service["spec"]["template"]["spec"]["containers"][0]["image"] == NO_IMAGE
    assert NO_IMAGE.partition("/")[0].endswith(".invalid")
