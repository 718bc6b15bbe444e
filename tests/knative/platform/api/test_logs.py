"""Logs of replicas, as `kubectl logs` asks for them."""

import os
import signal
from datetime import UTC, datetime
from typing import Any

import pytest

from knative.client.resources import POD, SERVICE
from tests.knative.platform.api.raw_http import Raw
from tests.knative.platform.conftest import LocalCluster, service, until


async def only_pod(local: LocalCluster) -> Any:
    pods = await local.ready_pods(1)
    return pods[0]


async def log(raw: Raw, pod: Any, query: str = "") -> tuple[int, Any]:
    path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}/log?{query}"
    status, body, _ = await raw("GET", path)
    return status, body


async def test_a_log_covers_one_run_of_a_container(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    pod = await only_pod(local)
    status, refused = await log(raw, pod, "previous=true")
    name = pod["metadata"]["name"]
    assert (status, refused["message"]) == (
        400,
        f'previous terminated container "user-container" in pod "{name}" not found',
    )
    _, first = await local.call("a", "/first")
    os.kill(first["pid"], signal.SIGKILL)

    async def restarted() -> bool:
        now = await local.cluster.get(POD, name, "default")
        (container,) = now["status"]["containerStatuses"]
        return container["restartCount"] == 1 and container["ready"]

    await until(restarted)
    await local.call("a", "/second")
    _, now = await log(raw, pod)
    _, before = await log(raw, pod, "previous=true")
    assert [line.partition('"')[2].partition(" HTTP")[0] for line in now.splitlines()] == ["", "GET /second"]
    assert [line.partition('"')[2].partition(" HTTP")[0] for line in before.splitlines()] == [
        "",
        "GET /first",
    ]


async def test_lines_have_timestamps_and_are_selected_by_time(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    pod = await only_pod(local)
    await local.call("a", "/one")
    _, stamped = await log(raw, pod, "timestamps=true")
    seen = datetime.now(UTC)
    begun = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    times = [datetime.fromisoformat(line.partition(" ")[0]) for line in stamped.splitlines()]
    assert times == sorted(times)
    assert begun <= times[0] <= times[-1] <= seen
    assert stamped.splitlines()[0].endswith(" listening")
    since = f"sinceTime={seen.isoformat().replace('+00:00', 'Z')}"
    assert await log(raw, pod, since) == (200, "")
    await local.call("a", "/two")
    _, later = await log(raw, pod, since)
    assert later.count("\n") == 1
    assert "GET /two" in later
    _, recent = await log(raw, pod, "sinceSeconds=3600")
    assert [word in recent for word in ("listening", "/one", "/two")] == [True] * 3


async def test_the_end_or_the_beginning_of_a_log(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    pod = await only_pod(local)
    await local.call("a", "/one")
    _, everything = await log(raw, pod)
    assert (await log(raw, pod, "tailLines=1"))[1] == everything.splitlines(keepends=True)[-1]
    assert (await log(raw, pod, "tailLines=0"))[1] == ""
    assert (await log(raw, pod, "tailLines=99"))[1] == everything
    assert (await log(raw, pod, "limitBytes=6"))[1] == "listen"
    assert (await log(raw, pod, "container=user-container"))[1] == everything


async def test_a_log_is_followed_until_the_container_ends(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    name = (await only_pod(local))["metadata"]["name"]
    url = f"{raw.base}/api/v1/namespaces/default/pods/{name}/log?follow=true&timestamps=true"
    async with local.http.get(url, headers=raw.headers) as answer:
        assert (await answer.content.readline()).endswith(b" listening\n")
        await local.call("a", "/seen")
        assert b"GET /seen" in await answer.content.readline()
        await local.cluster.delete(SERVICE, "a", "default")
        assert await answer.content.read() == b""


async def test_each_container_of_a_pod_has_a_log_of_its_own(local: LocalCluster, raw: Raw):
    words = "import time; print('from the side', flush=True); time.sleep(600)"
    body = service("a", container={"name": "main", "ports": [{"containerPort": 8080}]})
    side = {"name": "side", "image": "example.com/side", "command": ["python", "-c", words]}
    body["spec"]["template"]["spec"]["containers"].append(side)
    await local.cluster.create(SERVICE, body)
    await local.ready("a")
    pod = await only_pod(local)

    async def printed() -> bool:
        return await log(raw, pod, "container=side") == (200, "from the side\n")

    await until(printed)
    assert (await log(raw, pod, "container=main"))[1] == "listening\n"
    status, refused = await log(raw, pod)
    assert status == 400
    assert refused["message"] == (
        f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [main side]"
    )


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("container=nope", 400, "container nope is not valid for pod"),
        ("sinceTime=yesterday", 400, "sinceTime: Invalid value: 'yesterday'"),
        ("sinceTime=2026-01-01T00:00:00", 400, "must name its time zone"),
        ("sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1", 422, "at most one of"),
        ("tailLines=-1", 400, "tailLines"),
    ],
)
async def test_options_that_cannot_be_used_are_explained(local: LocalCluster, raw: Raw, query, code, text):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    status, refused = await log(raw, await only_pod(local), query)
    assert status == code
    assert text in refused["message"]


async def test_a_container_that_waits_to_start_has_no_log_yet(local: LocalCluster, raw: Raw):
    missing = {"envFrom": [{"configMapRef": {"name": "nope"}}]}
    await local.cluster.create(SERVICE, service("a", container=missing))

    async def waiting() -> Any:
        for pod in await local.cluster.list(POD, "default"):
            states = (pod.get("status") or {}).get("containerStatuses") or [{}]
            if (states[0].get("state") or {}).get("waiting", {}).get(
                "reason"
            ) == "CreateContainerConfigError":
                return pod
        return None

    status, refused = await log(raw, await until(waiting))
    assert status == 400
    assert refused["message"].endswith("is waiting to start: CreateContainerConfigError")


async def test_since_before_the_first_year_shows_everything(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    status, text = await log(raw, await only_pod(local), "sinceSeconds=99999999999")
    assert (status, text) == (200, "listening\n")
