"""`pilotlight doctor --probe`: the model read by a Job, or by this machine, and the cache tried."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from knative.client.cluster import Cluster
from knative.client.resources import JOB
from pilotlight.agent_reader import load_agent
from pilotlight.doctor.findings import Finding, Level
from pilotlight.doctor.needs import stages
from pilotlight.doctor.probe import probe, probe_job
from tests.pilotlight.cluster_with_jobs import ClusterWithJobs
from tests.warmpool.conftest import kubeconfig


def agent_file(folder: Path, uri: str, **spec: Any) -> Path:
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "chat"},
        "spec": {
            "image": "registry.example.com/pilotlight:1",
            "model": {"uri": uri},
            "auth": "none",
            "serviceAccountName": "reads-s3",
            "cache": {"persistentVolumeClaim": {"claimName": "weights"}},
            "gpu": {"type": "nvidia-l4"},
            "stages": [{"name": "generate", "kind": "generate", "engine": {"type": "onnx"}}],
            **spec,
        },
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def uri(s3, made_model) -> str:
    return s3.upload(made_model.path, "probed", "llama")


@pytest.fixture
async def jobs(tmp_path, s3):
    server = ClusterWithJobs(tmp_path, s3.environment)
    await server.started()
    server.claim("weights", "csi")
    yield server
    await server.stop()


async def probed(jobs: ClusterWithJobs, folder: Path, path: Path, **options: Any) -> list[Finding]:
    agent = load_agent(path)
    async with Cluster.from_kubeconfig(kubeconfig(folder, jobs.port)) as cluster:
        found = await probe(cluster, [agent], stages([agent]), tell=print, **options)
        assert await cluster.list(JOB) == [], "the Job is removed"
    return found


def test_the_job_is_the_stages_pod_without_gpu_and_placement(tmp_path):
    agent = load_agent(agent_file(tmp_path, "s3://models/llama"))
    (need,) = stages([agent])
    job = probe_job(agent, need, "s3://models/llama")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["serviceAccountName"] == "reads-s3"
    assert container["command"] == ["python", "-m", "weights.check_access", "s3://models/llama"]
    assert "nvidia.com/gpu" not in json.dumps(job)
    assert job["spec"]["backoffLimit"] == 0
    assert job["metadata"]["name"] != probe_job(agent, need, "s3://models/llama")["metadata"]["name"]


async def test_a_pod_lists_the_model_and_tries_the_cache(jobs, tmp_path, uri):
    cache, s3 = await probed(jobs, tmp_path, agent_file(tmp_path, uri))
    assert (cache.level, s3.level) == (Level.OK, Level.OK)
    assert "can be written from a pod" in cache.text
    assert "the model was listed from a pod in" in s3.text


async def test_what_a_pod_cannot_read_is_an_error_in_its_words(jobs, tmp_path, uri):
    found = await probed(jobs, tmp_path, agent_file(tmp_path, "s3://no-such-bucket/x"))
    (error,) = [finding for finding in found if finding.level is Level.ERROR]
    assert "generate-chat cannot read its model from a pod: s3://no-such-bucket/x" in error.text
    assert "s3.credentialsSecret" in error.fix
    assert error.field == ("spec", "model", "uri")


async def test_a_pod_that_no_node_takes_leaves_it_unknown(jobs, tmp_path, uri, capsys):
    jobs.taking = False
    (finding,) = await probed(jobs, tmp_path, agent_file(tmp_path, uri), timeout_s=0.6)
    assert "0/3 nodes are available" in capsys.readouterr().out, "while it waits, too"
    assert finding.level is Level.UNKNOWN
    assert "0/3 nodes are available" in finding.text


def test_without_a_cluster_this_machine_reads_it(cli, tmp_path, uri, s3):
    cli.environment |= s3.environment
    path = agent_file(tmp_path, uri)
    result = cli.run("doctor", "--probe", "-f", str(path), "--state", str(cli.state))
    assert result.returncode == 0, result.stdout
    assert "s3: the model was listed from this machine in" in result.stdout
    refused = cli.run("doctor", "--probe", "--state", str(cli.state))
    assert refused.returncode == 2
    assert "--file" in refused.stderr


def test_a_cache_that_cannot_be_written_is_said(tmp_path, made_model):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "weights.check_access", str(made_model.path)],
        env={**os.environ, "PILOTLIGHT_CACHE_DIR": str(tmp_path / "file")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    cache, model = map(json.loads, done.stdout.splitlines())
    assert (cache["kind"], cache["problem"]) == ("cache", "File exists")
    assert (model["kind"], done.returncode) == ("done", 0)
    assert asyncio.run(probe(None, [], [], tell=print)) == []
