"""`pilotlight weights warm`: the Jobs it makes, their progress, and the same on one machine."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from knative.client.cluster import Cluster
from knative.client.resources import CRON_JOB, JOB
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from pilotlight.warm_weights import on_a_cluster, on_this_machine
from pilotlight.warm_weights.cron_jobs import cron_jobs, schedules
from pilotlight.warm_weights.fill_state import Fill, State, of_job, with_line
from pilotlight.warm_weights.jobs import WarmError, nodes_of, warm_job, warm_target
from tests.pilotlight.cluster_with_jobs import ClusterWithJobs
from tests.pilotlight.kubernetes_schemas import faults
from tests.warmpool.conftest import kubeconfig
from warmpool.domain.duration import parse_duration
from warmpool.domain.pool import WarmPoolTemplate

CLAIM = {"persistentVolumeClaim": {"claimName": "weights"}}
NVME = {"persistentVolumeClaim": {"claimName": "nvme"}}
GPU_TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}


def agent_file(folder: Path, uri: str = "s3://models/llama", **spec: Any) -> Path:
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "chat"},
        "spec": {
            "image": "registry.example.com/pilotlight:1",
            "model": {"uri": uri},
            "serviceAccountName": "reads-s3",
            "imagePullSecrets": [{"name": "registry"}],
            "podSecurityContext": {"fsGroup": 10001},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "nodeSelector": {"gpu": "l4"},
            "runtimeClassName": "nvidia",
            "labels": {"team": "support"},
            "annotations": {"example.com/cost-centre": "42"},
            "stages": [
                {
                    "name": "generate",
                    "kind": "generate",
                    "engine": {"type": "onnx"},
                    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
                    "sharedMemory": {"sizeLimit": "8Gi"},
                }
            ],
            **spec,
        },
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def target(folder: Path, **spec: Any) -> Any:
    return warm_target(load_agent(agent_file(folder, **spec)))


def ignore(fill: Fill) -> None:
    """Show nothing."""


def test_the_job_is_the_stages_pod_without_its_gpu(tmp_path):
    found = target(tmp_path, cache=CLAIM)
    job = warm_job(found)
    (service,) = [
        obj for obj in compile_agent(load_agent(tmp_path / "agent.yaml")) if obj["kind"] == "Service"
    ]
    stage, pod = service["spec"]["template"]["spec"], job["spec"]["template"]["spec"]
    for field in (
        "serviceAccountName",
        "imagePullSecrets",
        "securityContext",
        "nodeSelector",
        "tolerations",
    ):
        assert pod[field] == stage[field], field
    (one,), (other,) = pod["containers"], stage["containers"]
    assert (one["image"], one["securityContext"]) == (other["image"], other["securityContext"])
    assert "nvidia.com/gpu" not in json.dumps(one["resources"])
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in one["env"]
    assert [volume["name"] for volume in pod["volumes"]] == ["pilotlight-cache"]  # no shared memory
    assert "runtimeClassName" not in pod
    assert job["metadata"]["labels"]["team"] == "support"
    assert job["metadata"]["annotations"] == {"example.com/cost-centre": "42"}
    assert pod["restartPolicy"] == "Never"


def test_the_download_has_credentials_and_authorities_of_s3_and_nothing_of_callers(tmp_path):
    s3 = {"endpoint": "https://s3.example.com", "credentialsSecret": "k", "caBundle": {"configMap": "ca"}}
    pod = warm_job(target(tmp_path, cache=CLAIM, s3=s3, auth="keys"))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {item["name"]: item["value"] for item in container["env"]}
    assert container["envFrom"] == [{"secretRef": {"name": "k"}}]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert env["AWS_ENDPOINT_URL"] == "https://s3.example.com"
    assert any(env["AWS_CA_BUNDLE"].startswith(f"{path}/") for path in mounts)
    assert len(mounts) == len(pod["volumes"]) == 2
    assert {name for name in env if name.startswith("PILOTLIGHT_")} == {"PILOTLIGHT_CACHE_DIR"}


def test_the_name_follows_from_what_the_job_does(tmp_path):
    found = target(tmp_path, cache=CLAIM)
    assert warm_job(found) == warm_job(found)
    other = target(tmp_path, cache=CLAIM, uri="s3://models/other")
    names = {
        warm_job(each, **options)["metadata"]["name"]
        for each, options in ((found, {}), (other, {}), (found, {"node": "a"}), (found, {"anywhere": True}))
    }
    assert len(names) == 4
    assert all(name.startswith("warm-generate-chat-") and len(name) <= 63 for name in names)


def test_a_job_for_one_node_goes_nowhere_else(tmp_path):
    pod = warm_job(target(tmp_path, cache=NVME), node="gpu-7")["spec"]["template"]["spec"]
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-7"]}]}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert "nodeSelector" not in pod


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"cache": {"emptyDir": {}}}, "emptyDir cannot be filled ahead"),
        ({"cache": CLAIM, "uri": "file:///mnt/model"}, "is read in place"),
        (
            {
                "cache": CLAIM,
                "model": {"name": "m"},
                "stages": [
                    {
                        "name": "g",
                        "kind": "generate",
                        "engine": {"type": "openai", "args": {"base-url": "http://m"}},
                    }
                ],
            },
            "no stage of kind generate that loads weights",
        ),
    ],
)
def test_what_cannot_be_filled_is_refused_with_the_reason(tmp_path, spec, expected):
    with pytest.raises(WarmError, match=expected):
        target(tmp_path, **spec)


def test_without_a_node_the_reasons_are_named(tmp_path):
    found = target(tmp_path, cache=NVME)
    fitting = {"metadata": {"name": "b", "labels": {"gpu": "l4"}}, "spec": {"taints": [GPU_TAINT]}}
    other = {"metadata": {"name": "a"}, "spec": {}}
    assert nodes_of(found, [other, fitting]) == ["b"]
    with pytest.raises(WarmError, match="a has not the label gpu=l4"):
        nodes_of(found, [other])
    with pytest.raises(WarmError, match="there are no nodes"):
        nodes_of(found, [])


def job_object(*conditions: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "j"}, "status": {"conditions": list(conditions)}}


PROGRESS = '{"kind": "progress", "done_bytes": 5, "total_bytes": 9, "seconds": 1.5}'
FAILED = '{"kind": "failed", "message": "403"}'
DONE = '{"kind": "done", "done_bytes": 9, "total_bytes": 9, "seconds": 2, "read_bytes": 4}'
COMPLETE = {"type": "Complete", "status": "True"}
GAVE_UP = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}


@pytest.mark.parametrize(
    ("conditions", "status", "log", "expected"),
    [
        ([], None, [], Fill("j", detail="no pod yet")),
        ([], {}, [], Fill("j", "n")),
        (
            [],
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no claim"}]},
            [],
            Fill("j", "n", detail="no claim"),
        ),
        (
            [],
            {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            [],
            Fill("j", "n", detail="ImagePullBackOff"),
        ),
        ([], {}, ["a warning", PROGRESS], Fill("j", "n", State.FILLING, "", 5, 9, None, 1.5)),
        ([], {}, [PROGRESS, FAILED], Fill("j", "n", State.WAITING, "tried again after: 403", 5, 9, None, 1.5)),
        ([COMPLETE], {}, [PROGRESS, DONE], Fill("j", "n", State.DONE, "", 9, 9, 4, 2)),
        ([COMPLETE], None, [], Fill("j", None, State.DONE)),
        ([GAVE_UP], {}, [FAILED], Fill("j", "n", State.FAILED, "403")),
        ([GAVE_UP], {}, [], Fill("j", "n", State.FAILED, "DeadlineExceeded: too long")),
    ],
)  # fmt: skip
def test_the_state_follows_from_job_pod_and_log(conditions, status, log, expected):
    pods = [] if status is None else [{"metadata": {}, "spec": {"nodeName": "n"}, "status": status}]
    assert of_job(job_object(*conditions), pods, log) == expected


@pytest.mark.parametrize("line", ["", "no JSON", "[]", '{"kind": "other"}', '{"other": 1}'])
def test_lines_that_are_no_report_change_nothing(line):
    assert with_line(Fill("j"), line) == Fill("j")


# With a cluster's API, and the container's command as a process.


@pytest.fixture(scope="module")
def uri(s3, made_model) -> str:
    return s3.upload(made_model.path, "warm", "llama")


@pytest.fixture
async def jobs(tmp_path, s3):
    server = ClusterWithJobs(tmp_path, s3.environment)
    await server.started()
    server.claim("weights", "csi")
    server.claim("nvme", "hostPath")
    server.config = str(kubeconfig(tmp_path, server.port))
    yield server
    await server.stop()


@pytest.fixture
async def cluster(jobs):
    async with Cluster.from_kubeconfig(Path(jobs.config)) as client:
        yield client


async def warm(cli, jobs: ClusterWithJobs, path: Path, *options: str) -> Any:
    return await asyncio.to_thread(
        cli.run, "weights", "warm", "-f", str(path), "--kubeconfig", jobs.config, *options
    )


async def test_one_job_fills_a_claim_and_the_next_one_fetches_nothing(cli, jobs, tmp_path, uri, made_model):
    path = agent_file(tmp_path, uri, cache=CLAIM)
    first = await warm(cli, jobs, path)
    assert first.returncode == 0, first.stderr
    assert ": done " in first.stdout
    assert list((tmp_path / "claims" / "weights" / "blobs").iterdir())
    again = await warm(cli, jobs, path, "--json")
    (fill,) = json.loads(again.stdout)["fills"]
    assert (fill["state"], fill["read_bytes"]) == ("done", 0)
    assert fill["total_bytes"] >= made_model.weight_bytes
    assert len(jobs.runs) == 2
    gone = await warm(cli, jobs, path, "--delete")
    assert gone.stdout == f"job/{jobs.runs[0]} deleted\n"
    assert (await warm(cli, jobs, path, "--delete")).stdout == "no Jobs were there\n"


async def test_each_node_that_takes_the_stage_fills_its_own_folder(jobs, cluster, tmp_path, uri):
    for name in ("a", "b"):
        jobs.node(name, {"gpu": "l4"}, [GPU_TAINT])
    jobs.node("small")
    found = target(tmp_path, uri=uri, cache=NVME)
    made = await on_a_cluster.jobs_for(cluster, found)
    await on_a_cluster.start(cluster, made)
    fills = await on_a_cluster.follow(cluster, made, ignore, timeout_s=60, poll_s=0.1)
    assert [fill.state for fill in fills] == [State.DONE, State.DONE]
    assert sorted(path.name for path in (tmp_path / "nodes").iterdir()) == ["a", "b"]
    (one,) = await on_a_cluster.jobs_for(cluster, found, nodes=["new"])
    assert one["metadata"]["name"] not in jobs.runs


async def test_a_failure_is_reported_in_the_words_of_the_container(jobs, cluster, tmp_path):
    made = await on_a_cluster.jobs_for(cluster, target(tmp_path, uri="s3://warm/absent", cache=CLAIM))
    await on_a_cluster.start(cluster, made)
    (fill,) = await on_a_cluster.follow(cluster, made, ignore, timeout_s=60, poll_s=0.1)
    assert fill.state is State.FAILED
    assert "s3://warm/absent" in fill.detail


async def test_what_a_pod_waits_for_is_shown_and_a_job_at_work_is_left_alone(jobs, cluster, tmp_path, uri):
    jobs.taking = False
    made = await on_a_cluster.jobs_for(cluster, target(tmp_path, uri=uri, cache=CLAIM))
    await on_a_cluster.start(cluster, made)
    (before,) = jobs.store.list(JOB)
    seen: asyncio.Queue[Fill] = asyncio.Queue()
    following = asyncio.create_task(
        on_a_cluster.follow(cluster, made, seen.put_nowait, timeout_s=60, poll_s=0.05)
    )
    async with asyncio.timeout(30):
        while "0/3 nodes are available" not in (await seen.get()).detail:
            pass
    following.cancel()
    await on_a_cluster.start(cluster, made)
    (after,) = jobs.store.list(JOB)
    assert before.obj["metadata"]["uid"] == after.obj["metadata"]["uid"]
    (fill,) = await on_a_cluster.follow(cluster, made, ignore, timeout_s=0)
    assert fill.state is State.WAITING


async def test_without_a_cache_in_the_file_it_says_what_to_write(cluster, tmp_path, uri):
    with pytest.raises(WarmError, match=r"write spec\.cache with persistentVolumeClaim"):
        await on_a_cluster.jobs_for(cluster, target(tmp_path, uri=uri))
    absent = {"persistentVolumeClaim": {"claimName": "absent"}}
    with pytest.raises(WarmError, match="claimName = absent: there is no such claim in default"):
        await on_a_cluster.jobs_for(cluster, target(tmp_path, uri=uri, cache=absent))


async def test_ctrl_c_leaves_the_jobs_and_says_so(cli, jobs, tmp_path, uri):
    jobs.taking = False
    path = agent_file(tmp_path, uri, cache=CLAIM)
    running = cli.start("weights", "warm", "-f", str(path), "--kubeconfig", jobs.config)
    await asyncio.to_thread(running.until, lambda text: "waiting" in text)
    assert await asyncio.to_thread(running.interrupt) == 130
    assert "the Jobs go on" in running.output
    assert len(list(jobs.store.list(JOB))) == 1


# Ahead of windows.


@pytest.mark.parametrize(
    ("window", "before", "expected"),
    [
        ({"from": "08:00", "to": "19:00", "days": ["Mon-Fri"]}, "30m", "30 7 * * 1,2,3,4,5"),
        ({"from": "08:00", "to": "19:00"}, "1h", "0 7 * * *"),
        ({"from": "00:10", "to": "02:00", "days": ["Mon", "Sun"]}, "30m", "40 23 * * 0,6"),
        ({"from": "00:00", "to": "24:00", "days": ["Mon"]}, "24h", "0 0 * * 0"),
    ],
)
def test_the_schedule_is_ahead_of_the_window(window, before, expected):
    pool = WarmPoolTemplate.model_validate({"windows": [{"name": "w", "replicas": 1, **window}]})
    assert schedules(pool, parse_duration(before)) == {"w": expected}


@pytest.mark.parametrize(
    ("before", "windows", "expected"),
    [
        (
            "90s",
            [{"name": "w", "replicas": 1, "from": "08:00", "to": "09:00"}],
            "whole minutes from 1m to 24h",
        ),
        (
            "25h",
            [{"name": "w", "replicas": 1, "from": "08:00", "to": "09:00"}],
            "whole minutes from 1m to 24h",
        ),
        ("30m", [{"name": "w", "replicas": 1, "cron": "0 8 * * *", "duration": "1h"}], "by days of the week"),
    ],
)
def test_what_has_no_schedule_is_refused(before, windows, expected):
    pool = WarmPoolTemplate.model_validate({"windows": windows})
    with pytest.raises(WarmError, match=expected):
        schedules(pool, parse_duration(before))


async def test_the_cron_jobs_of_a_pool_replace_those_of_an_earlier_one(cluster, tmp_path, uri):
    found = target(tmp_path, uri=uri, cache=CLAIM)
    jobs = await on_a_cluster.jobs_for(cluster, found)
    half, hour = timedelta(minutes=30), timedelta(hours=1)
    windows = [{"name": name, "replicas": 1, "from": "08:00", "to": "09:00"} for name in ("a", "b")]
    both = WarmPoolTemplate.model_validate({"timeZone": "Europe/Berlin", "windows": windows})
    one = WarmPoolTemplate.model_validate({"timeZone": "Europe/Berlin", "windows": windows[:1]})
    made = list(cron_jobs(jobs, both, half))
    assert [fault for obj in made for fault in faults(obj)] == []
    first = await on_a_cluster.schedule(cluster, found, made)
    again = await on_a_cluster.schedule(cluster, found, made)
    assert (len(first["applied"]), again) == (2, {"applied": first["applied"], "deleted": []})
    other = await on_a_cluster.schedule(cluster, found, list(cron_jobs(jobs, one, hour)))
    assert set(other["deleted"]) == set(first["applied"])
    (left,) = await cluster.list(CRON_JOB, "default")
    assert (left["spec"]["schedule"], left["spec"]["timeZone"]) == ("0 7 * * *", "Europe/Berlin")
    assert left["spec"]["jobTemplate"]["spec"] == jobs[0]["spec"]
    assert len(left["metadata"]["name"]) <= 52
    assert await on_a_cluster.remove(cluster, found) == [f"cronjob/{left['metadata']['name']}"]


# On one machine.


def test_on_one_machine_the_claims_folder_is_filled(cli, tmp_path, uri, s3):
    cli.environment |= s3.environment
    path = agent_file(tmp_path, uri, cache=CLAIM)
    arguments = ("weights", "warm", "-f", str(path), "--state", str(cli.state))
    first = cli.run(*arguments)
    assert first.returncode == 0, first.stderr
    folder = cli.state / "claims" / "default" / "weights"
    assert list((folder / "blobs").iterdir())
    (fill,) = json.loads(cli.run(*arguments, "--json").stdout)["fills"]
    assert (fill["name"], fill["state"], fill["read_bytes"]) == (str(folder), "done", 0)
    assert fill["total_bytes"] > 0


async def test_on_one_machine_a_failure_is_reported_in_its_own_words(tmp_path, s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    found = target(tmp_path, uri="s3://warm/absent", cache=CLAIM)
    fill = await on_this_machine.fill(found, tmp_path / "cache", {}, ignore, timeout_s=60)
    assert fill.state is State.FAILED
    assert "s3://warm/absent" in fill.detail


def test_on_one_machine_ctrl_c_ends_the_download_too(cli, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cli.environment |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
        }
        path = agent_file(tmp_path, "s3://bucket/model", cache=CLAIM)
        running = cli.start("weights", "warm", "-f", str(path), "--state", str(cli.state))
        running.until(lambda text: "filling" in text)
        below = running.descendants()
        assert running.interrupt() == 130
        assert below
        assert not [process for process in below if process.is_running()]


def test_the_command_of_the_job_ends_at_sigterm(s3, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {**os.environ, **s3.environment, "PILOTLIGHT_CACHE_DIR": str(tmp_path)}
        env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "weights.fill_cache", "s3://bucket/model"], env=env, stdout=subprocess.PIPE
        )
        connection, _ = silent.accept()
        process.send_signal(signal.SIGTERM)
        connection.close()
        assert process.wait(30) in {143, -signal.SIGTERM}
