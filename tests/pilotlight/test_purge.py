"""`pilotlight delete --purge`: what it says, asks and removes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from knative.client.cluster import Cluster
from knative.client.resources import JOB, REVISION, SERVICE, WARM_POOL
from knative.local.apiserver.records import Key
from pilotlight import deploy, purge
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from pilotlight.warm_weights import on_a_cluster
from pilotlight.warm_weights.jobs import warm_target
from tests.pilotlight.cluster_with_jobs import ClusterWithJobs
from tests.warmpool.conftest import kubeconfig
from warmpool.reconcile import ownership
from weights.cache.inventory import take_inventory

MIN = "autoscaling.knative.dev/min-scale"


@pytest.fixture(scope="module")
def uris(s3, made_model) -> tuple[str, str]:
    """Two addresses of models; all their files but one have the same content."""
    client = s3.client()
    first = s3.upload(made_model.path, "purge", "first")
    for path in made_model.path.iterdir():
        client.put_object(Bucket="purge", Key=f"second/{path.name}", Body=path.read_bytes())
    other = (made_model.path / "config.json").read_text() + "\n"
    client.put_object(Bucket="purge", Key="second/config.json", Body=other.encode())
    return first, "s3://purge/second"


def agent_file(folder: Path, uri: str) -> Path:
    stage: dict[str, Any] = {"name": "generate", "kind": "generate", "engine": {"type": "onnx"}}
    stage["warmPool"] = {"windows": [{"name": "w", "from": "00:00", "to": "24:00", "replicas": 1}]}
    spec = {
        "image": "registry.example.com/pilotlight:1",
        "auth": "none",
        "model": {"uri": uri},
        "cache": {"persistentVolumeClaim": {"claimName": "weights"}},
        "stages": [stage],
    }
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "chat"},
        "spec": spec,
    }
    path = folder / f"{uri.rpartition('/')[2]}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
async def jobs(tmp_path, s3):
    server = ClusterWithJobs(tmp_path, s3.environment)
    await server.started()
    server.claim("weights", "csi")
    yield server
    await server.stop()


@pytest.fixture
async def cluster(jobs, tmp_path):
    async with Cluster.from_kubeconfig(kubeconfig(tmp_path, jobs.port)) as client:
        yield client


async def fill(cluster: Cluster, path: Path) -> None:
    made = await on_a_cluster.jobs_for(cluster, warm_target(load_agent(path)))
    await on_a_cluster.start(cluster, made)
    await on_a_cluster.follow(cluster, made, lambda _: None, timeout_s=60, poll_s=0.1)


def hold_a_floor(jobs: ClusterWithJobs, prefix: str) -> Key:
    """A Revision with a floor of the pool, as a controller leaves it that runs no more."""
    names = {ownership.POOL: "generate-chat", ownership.WRITTEN: "1", ownership.USER: ""}
    marks = {f"{prefix}/{name.partition('/')[2]}": value for name, value in names.items()}
    meta = {"name": "generate-chat-00001", "annotations": {MIN: "1", **marks}}
    spec = {"containers": [{"name": "user-container", "image": "registry.local/x"}]}
    revision = {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": meta, "spec": spec}
    jobs.registry.create(REVISION, "default", revision)
    return Key(REVISION, "default", meta["name"])


@pytest.mark.parametrize("prefix", ["pilotlight.dev"])  # as earlier builds wrote them
async def test_everything_of_the_agent_goes_and_what_others_share_stays(jobs, cluster, cli, uris, prefix):
    tmp_path = jobs.folder
    first, second = (agent_file(tmp_path, uri) for uri in uris)
    objects = compile_agent(load_agent(first))
    for obj in objects:
        await cluster.apply(deploy.resource_of(obj), obj)
    finalizers = {"metadata": {"finalizers": [ownership.FINALIZER]}}
    await cluster.patch(WARM_POOL, "generate-chat", "default", finalizers)
    revision = hold_a_floor(jobs, prefix)
    await fill(cluster, first)
    await fill(cluster, second)
    before = take_inventory(tmp_path / "claims" / "weights")
    assert len(before.models) == 2

    done = await asyncio.to_thread(
        cli.run, "delete", "--purge", "--yes", "-f", str(first), "--kubeconfig", str(tmp_path / "kubeconfig")
    )
    assert done.returncode == 0, done.stderr
    assert "removes warmpool/generate-chat, its floors on Revisions and its finalizer" in done.stdout
    assert "keeps   claim weights and the models of other agents in it" in done.stdout
    assert "floor of generate-chat-00001 given back" in done.stdout
    for resource in (WARM_POOL, SERVICE, JOB):
        assert await cluster.list(resource, "default") == []
    annotations = jobs.store.get(revision).obj["metadata"].get("annotations", {})
    assert annotations == {}
    after = take_inventory(tmp_path / "claims" / "weights")
    assert [model.uri for model in after.models] == [uris[1]]
    assert 0 < after.blob_bytes < before.blob_bytes


async def test_a_dry_run_changes_nothing_and_nobody_to_ask_is_an_error(jobs, cluster, cli, tmp_path, uris):
    path = agent_file(tmp_path, uris[0])
    for obj in compile_agent(load_agent(path)):
        await cluster.apply(deploy.resource_of(obj), obj)
    arguments = ("delete", "--purge", "-f", str(path), "--kubeconfig", str(tmp_path / "kubeconfig"))
    done = await asyncio.to_thread(cli.run, *arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "removes service/generate-chat" in done.stdout
    refused = await asyncio.to_thread(cli.run, *arguments)
    assert refused.returncode == 2
    assert "say --yes" in refused.stderr
    assert len(await cluster.list(SERVICE, "default")) == 1
    assert len(await cluster.list(WARM_POOL, "default")) == 1


async def test_what_is_not_there_is_not_in_the_plan(jobs, cluster, tmp_path, uris):
    found = load_agent(agent_file(tmp_path, uris[0]))
    planned = await purge.plan(cluster, found, compile_agent(found), state_dir=tmp_path)
    assert (planned.pools, planned.objects) == ((), ())
