"""`pilotlight up --mtls`: the gateway and the stages of a machine speak TLS and know each other."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import yaml

from knative.client.resources import POD, Object
from knative.local.certificate_authority import CertificateAuthority
from pilotlight import deploy, metrics_page
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from pilotlight.service_readings import metrics_url
from pilotlight.stack import Stack, StackConfig, running
from tests.functions.servers import wait_until
from tests.pilotlight.conftest import ECHO
from warmpool.adapters.phases import HttpPhases

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("mtls")
    (folder / "echo.py").write_text(ECHO)
    stay = {"scaling": {"min": 1}}
    clean = {"name": "clean", "kind": "postprocess", "config": {"redact": ["email"]}, **stay}
    chain = {"name": "chain", "kind": "orchestrate", **stay}
    command = [sys.executable, str(folder / "echo.py")]
    echo = {"name": "echo", "kind": "container", "image": "example.com/echo", "command": command, **stay}
    objects = []
    for name, stages in (("demo", [clean, chain]), ("other", [echo])):
        path = folder / f"{name}.yaml"
        agent = {"apiVersion": "pilotlight.dev/v1alpha1", "kind": "Agent", "metadata": {"name": name}}
        path.write_text(yaml.safe_dump({**agent, "spec": {"stages": stages}}))
        objects += compile_agent(load_agent(path))
    config = StackConfig(folder / "state", gateway_port=0, api_port=0, mtls=True)
    async with running(config) as found:
        await deploy.apply(found.cluster, objects)
        async for _ in deploy.watch_until_ready(
            found.cluster, ["clean-demo", "chain-demo", "echo-other"], "default", timeout_s=60
        ):
            pass
        yield found


async def replica(stack: Stack, service: str) -> Object:
    found: list[Object] = []

    async def is_there() -> bool:
        found[:] = await stack.cluster.list(POD, "default", f"serving.knative.dev/service={service}")
        return bool(found)

    await wait_until(is_there)
    return found[0]


def port(pod: Object) -> str:
    return pod["metadata"]["annotations"]["pilotlight.dev/port"]


async def s_client(port: str, *more: str) -> tuple[int, str]:
    """What openssl's client says of a server and of its answer: TLS 1.3 refuses after the handshake."""

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [
                "openssl",
                "s_client",
                "-connect",
                f"127.0.0.1:{port}",
                "-verify_return_error",
                "-ign_eof",
                *more,
            ],
            input=b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    return await asyncio.to_thread(run)


def certified(folder: Path) -> list[str]:
    return [
        "-CAfile", str(folder / "ca.crt"), "-cert", str(folder / "tls.crt"), "-key", str(folder / "tls.key"),
        "-verify_ip", "127.0.0.1",
    ]  # fmt: skip


async def test_function_urls_answer_through_the_gateway(stack):
    async with aiohttp.ClientSession() as http:
        for service in ("clean-demo", "chain-demo"):  # which calls the other one, through the gateway
            url = f"{stack.gateway_url}/default/{service}/invoke"
            async with http.post(url, json={"input": "mail me: a@b.example"}) as response:
                reply = await response.json()
            assert response.status == 200, reply
            assert "a@b.example" not in reply["output"]
        # A container of the user's own speaks plain HTTP, as it knows nothing else.
        async with http.get(f"{stack.gateway_url}/default/echo-other/hello") as response:
            assert (response.status, json.loads(await response.read())["path"]) == (200, "/hello")


async def test_a_client_without_a_certificate_is_refused(stack, tmp_path):
    number = port(await replica(stack, "clean-demo"))
    clients = stack.platform.config.state_dir / "tls" / "clients"
    code, said = await s_client(number, *certified(clients))
    assert code == 0, said
    assert "Verification: OK" in said
    assert "TLSv1.3" in said
    assert "HTTP/1.1 200" in said

    code, said = await s_client(number, "-CAfile", str(clients / "ca.crt"))
    assert code != 0
    assert "Verification: OK" in said  # its own view: the server is who it should be
    assert "HTTP/1.1" not in said

    foreign = CertificateAuthority(tmp_path)
    foreign.renew(datetime.now(UTC))
    _, said = await s_client(number, *certified(foreign.clients)[2:6])
    assert "HTTP/1.1" not in said

    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://127.0.0.1:{number}/metrics")


async def test_who_observes_replicas_has_a_certificate(stack):
    pod = await replica(stack, "clean-demo")
    tls = metrics_page.replica_tls(stack.platform.config.state_dir)
    async with aiohttp.ClientSession() as http:
        samples = await metrics_page.read(http, metrics_url(pod) or "", tls=tls)
    assert "pilotlight_replica_state" in {name for name, _, _ in samples}
    phases = HttpPhases(stack.cluster, tls=stack.platform.replica_tls, timeout_s=30)
    assert await phases.phases(("default", "clean-demo"), timedelta(hours=1))


async def test_certificates_are_replaced_while_requests_go_on(stack):
    number = port(await replica(stack, "clean-demo"))
    folder = stack.platform.config.state_dir / "tls"

    async def serial() -> str:
        _, said = await s_client(number, *certified(folder / "clients"), "-showcerts")
        return said[said.index("-----BEGIN") : said.index("-----END")]

    before = await serial()
    authority = CertificateAuthority(folder)
    # A new authority and new certificates, as at two thirds of a year.
    await asyncio.to_thread(authority.renew, datetime.now(UTC) + timedelta(days=250))
    url = f"{stack.gateway_url}/default/clean-demo/invoke"

    async def is_replaced() -> bool:
        async with aiohttp.ClientSession() as http, http.post(url, json={"input": "x"}) as response:
            assert response.status == 200
        return await serial() != before

    await wait_until(is_replaced, 60)
