"""Floors lapse although their controller is dead: the CronJob of the manifests, run as it stands there."""

import asyncio
import base64
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

import knative as package
from knative.client.errors import NotFound
from knative.client.resources import POD_AUTOSCALER, REVISION, WARM_POOL
from knative.local.platform.config import PlatformConfig
from knative.local.platform.platform import Platform
from tests.warmpool.conftest import MIN, kubeconfig, make_controller
from tests.warmpool.faulty_proxy import FaultyProxy
from tests.warmpool.test_manifests import asked
from warmpool import operations
from warmpool.reconcile import ownership

MANIFEST = Path(package.__file__).parent / "manifests" / "controller" / "floor-expiry.yaml"
DOCUMENTS = {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}
HOUR = timedelta(hours=1)


def permitted() -> set[tuple[str, str, str]]:
    """Group, resource and verb of everything that the CronJob's role allows."""
    return {
        (group, resource, verb)
        for rule in DOCUMENTS["ClusterRole"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def job_containers() -> list[dict]:
    return DOCUMENTS["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]


async def run_job(config: Path) -> str:
    """Run the CronJob's command as a process."""
    (container,) = job_containers()
    program, *args = container["command"]
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name(program)),
        *args,
        env={**os.environ, "KUBECONFIG": str(config)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def hold(cluster, name: str, expires: datetime, *, user: int | None = None, pool: str = "pool") -> None:
    """Leave a floor of 2 on a Revision, as a controller that died."""
    owner = ownership.FloorOwnership(pool, 2, user, expires)
    await cluster.patch(REVISION, name, "default", {"metadata": {"annotations": ownership.write(owner)}})


async def test_the_job_releases_expired_floors_with_the_rights_of_its_role(knative, api, cluster, tmp_path):
    now = datetime.now(UTC)
    knative.service("generate")
    knative.service("other")
    await knative.pool()
    await hold(cluster, "generate-00001", now - HOUR, user=1)
    await hold(cluster, "other-00001", now + HOUR)
    body = {"metadata": {"annotations": {MIN: "2", ownership.LEVER: "pool"}}}  # a Knative before 1.21
    await cluster.patch(POD_AUTOSCALER, "generate-00001", "default", body)
    proxy = FaultyProxy(api.port)
    await proxy.start()
    said = await run_job(kubeconfig(tmp_path, proxy.port, "job"))
    await proxy.stop()
    assert said.strip() == "default/generate-00001 released"
    assert (knative.min_scale("generate-00001"), knative.min_scale("other-00001")) == ("1", "2")
    scale = await cluster.get(POD_AUTOSCALER, "generate-00001", "default")
    assert scale["metadata"]["annotations"] == {MIN: "1"}
    used = {asked(method, path, watch=watch) for method, path, watch in proxy.seen}
    assert used <= permitted()
    assert permitted() - used <= {("pilotlight.dev", "warmpools", "patch"), *_reads(permitted())}


def _reads(entries: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    return {entry for entry in entries if entry[2] in ("get", "list")}


async def test_what_a_living_controller_holds_is_left_alone(knative, api, cluster, clock, tmp_path):
    clock.at = datetime.now(UTC)
    knative.service("generate")
    window = {"name": "always", "days": ["Mon-Sun"], "from": "00:00", "to": "24:00", "replicas": 2}
    await knative.pool(windows=[window])
    await make_controller(cluster, clock=clock).tick()
    said = await run_job(kubeconfig(tmp_path, api.port))
    assert (said.strip(), knative.min_scale("generate-00001")) == ("nothing to release", "2")


async def test_a_pool_that_was_deleted_after_its_controller_died_goes(knative, cluster, clock):
    knative.service("generate")
    await knative.pool()
    now = datetime.now(UTC)
    await hold(cluster, "generate-00001", now + HOUR)
    body = {"metadata": {"finalizers": [ownership.FINALIZER, "example.com/kept"]}}
    await cluster.patch(WARM_POOL, "pool", "default", body)
    await cluster.delete(WARM_POOL, "pool", "default")
    assert await operations.release_abandoned(cluster, None, now) == []
    later = now + operations.DELETION_PATIENCE + timedelta(seconds=5)
    released = await operations.release_abandoned(cluster, None, later)
    assert released == ["default/generate-00001", "default/pool (WarmPool)"]
    assert knative.min_scale("generate-00001") is None
    pool = await cluster.get(WARM_POOL, "pool", "default")
    assert pool["metadata"]["finalizers"] == ["example.com/kept"]
    await cluster.patch(WARM_POOL, "pool", "default", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await cluster.get(WARM_POOL, "pool", "default")


IN_A_POD = """
mount -t tmpfs tmpfs /run
mkdir -p /run/secrets/kubernetes.io
ln -s "$1" /run/secrets/kubernetes.io/serviceaccount
shift
exec "$@"
"""
"""`/var/run` is `/run`; both are the test's own in its mount namespace."""


def may_mount() -> bool:
    done = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    return done.returncode == 0 and Path("/var/run").resolve() == Path("/run")


@pytest.mark.skipif(not may_mount(), reason="this machine permits no mount namespaces")
async def test_in_its_pod_the_job_uses_the_pods_account(tmp_path):
    config = PlatformConfig(tmp_path / "state", gateway_port=0, api_port=0)
    async with Platform(config) as platform:
        known = yaml.safe_load(platform.kubeconfig.read_text())
        (server,) = known["clusters"]
        account = tmp_path / "account"
        account.mkdir()
        (account / "token").write_text(known["users"][0]["user"]["token"])
        (account / "ca.crt").write_bytes(base64.b64decode(server["cluster"]["certificate-authority-data"]))
        (account / "namespace").write_text("pilotlight-system")
        (container,) = job_containers()
        program, *args = container["command"]
        address = server["cluster"]["server"].removeprefix("https://")
        host, _, port = address.rpartition(":")
        env = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "HOME")}
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "--propagation", "private", "sh", "-ec", IN_A_POD, "sh", str(account)),
            str(Path(sys.executable).with_name(program)),
            *args,
            env={
                **env,
                "HOME": str(tmp_path / "nowhere"),
                "KUBERNETES_SERVICE_HOST": host,
                "KUBERNETES_SERVICE_PORT": port,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
    assert (process.returncode, out.decode().strip()) == (0, "nothing to release")
