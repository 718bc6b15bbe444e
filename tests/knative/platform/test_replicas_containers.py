"""Several containers in a pod: sidecars beside the one that serves."""

import contextlib
import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import CONFIG_MAP, EVENT, SERVICE
from tests.knative.platform.conftest import BACKEND, LocalCluster, condition, service, until

PORTS = {"ports": [{"containerPort": 8080}]}
IDLE = ["python", "-c", "import time; time.sleep(600)"]
DUMP = (
    "import json, os, sys, time; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ))); time.sleep(600)"
)


def with_sidecar(name: str = "helper", **sidecar: Any) -> dict[str, Any]:
    """A Service with the test backend and a container beside it."""
    body = service("a", container={**PORTS, **sidecar.pop("main", {})}, spec=sidecar.pop("spec", None))
    beside = {"name": name, "image": "example.com/helper", "command": IDLE, **sidecar}
    body["spec"]["template"]["spec"]["containers"].append(beside)
    return body


async def switch(local: LocalCluster, *flags: str) -> None:
    meta = {"name": "config-features", "namespace": "knative-serving"}
    body = {"metadata": meta, "data": dict.fromkeys(flags, "enabled")}
    with contextlib.suppress(NotFound):
        await local.cluster.delete(CONFIG_MAP, **meta)
    await local.cluster.create(CONFIG_MAP, body)


async def statuses(local: LocalCluster) -> dict[str, Any]:
    """The only pod's container statuses by name."""
    pods = await local.pods()
    found = (pods[0].get("status") or {}).get("containerStatuses") or [] if pods else []
    return {item["name"]: item for item in found}


async def pod_row(local: LocalCluster) -> list[Any]:
    """The only pod as `kubectl get pods` shows it: name, ready, status, ..."""
    user = yaml.safe_load(local.platform.kubeconfig.read_text())["users"][0]["user"]
    headers = {
        "Authorization": f"Bearer {user['token']}",
        "Accept": "application/json;as=Table;v=v1;g=meta.k8s.io",
    }
    url = f"{local.platform.api_url}/api/v1/namespaces/default/pods"
    async with local.http.get(url, headers=headers) as answer:
        (row,) = (await answer.json())["rows"]
    return row["cells"]


async def log(local: LocalCluster, container: str | None) -> str:
    (pod,) = await local.pods()
    path = local.platform.logs / "default" / f"{pod['metadata']['name']}{container or ''}.log"
    return path.read_text()


async def test_a_sidecar_shares_the_pods_volumes_and_has_its_own_environment_and_log(
    local: LocalCluster, tmp_path: Path
):
    mount = {"volumeMounts": [{"name": "shared", "mountPath": str(tmp_path / "seen")}]}
    body = with_sidecar(
        command=["python", "-uc", f"print('sidecar speaks'); {DUMP}", str(tmp_path / "seen" / "env")],
        env=[{"name": "OWN", "value": "sidecar"}],
        main=mount,
        **mount,
        spec={"volumes": [{"name": "shared", "emptyDir": {}}]},
    )
    await local.cluster.create(SERVICE, body)
    await local.ready("a")

    async def written():
        status, content = await local.call("a", f"/file?={tmp_path}/seen/env")
        return json.loads(content["content"]) if status == 200 and content["content"] else None

    seen = await until(written)
    assert (seen["OWN"], seen["K_SERVICE"], seen["K_REVISION"]) == ("sidecar", "a", "a-00001")
    assert "PORT" not in seen
    _, serving = await local.call("a", "/env")
    assert "OWN" not in serving
    assert seen["HOSTNAME"] == serving["HOSTNAME"]
    found = await statuses(local)
    assert {name: item["ready"] for name, item in found.items()} == {"user-container-0": True, "helper": True}
    assert (await pod_row(local))[1] == "2/2"
    assert "sidecar speaks" in await log(local, ".helper")
    assert "sidecar speaks" not in await log(local, None)
    assert "listening" in await log(local, None)


async def test_a_pod_is_ready_when_all_its_containers_are(local: LocalCluster, tmp_path: Path):
    await switch(local, "multi-container-probing")
    gate = tmp_path / "open"
    body = with_sidecar(readinessProbe={"exec": {"command": ["test", "-e", str(gate)]}})
    await local.cluster.create(SERVICE, body)

    async def main_is_ready():
        found = await statuses(local)
        return found and found["user-container-0"]["ready"]

    await until(main_is_ready)
    (pod,) = await local.pods()
    waits = condition(pod)
    assert waits["status"] == "False"
    assert waits["message"].startswith("containers with unready status: [helper]")
    gate.touch()
    await local.ready("a")


async def test_a_probes_command_sees_the_containers_volumes(local: LocalCluster, tmp_path: Path):
    seen = tmp_path / "seen"
    meta = {"name": "greeting", "namespace": "default"}
    await local.cluster.create(CONFIG_MAP, {"metadata": meta, "data": {"word": "hello"}})
    body = service(
        "a",
        container={
            "volumeMounts": [{"name": "v", "mountPath": str(seen)}],
            "readinessProbe": {"exec": {"command": ["grep", "-q", "hello", str(seen / "word")]}},
        },
        spec={"volumes": [{"name": "v", "configMap": {"name": "greeting"}}]},
    )
    await local.cluster.create(SERVICE, body)
    await local.ready("a")
    assert list(seen.iterdir()) == []  # the machine itself doesn't see it


async def test_a_sidecar_that_ends_starts_again_and_leaves_the_others_alone(local: LocalCluster):
    await local.cluster.create(SERVICE, with_sidecar(command=["python", "-c", "exit(3)"]))

    async def has_restarted():
        found = await statuses(local)
        return found and found["helper"]["restartCount"] >= 2 and found

    found = await until(has_restarted)
    assert found["helper"]["lastState"]["terminated"]["exitCode"] == 3
    (pod,) = await local.pods()
    title = f"{pod['metadata']['name']}_default({pod['metadata']['uid']})"
    texts = [event["message"] for event in await local.cluster.list(EVENT, "default")]
    assert f"Back-off restarting failed container helper in pod {title}" in texts
    main = found["user-container-0"]
    assert (main["restartCount"], "running" in main["state"]) == (0, True)
    serving = psutil.Process(int(main["containerID"].removeprefix("process://")))
    assert str(BACKEND) in serving.cmdline()


async def test_a_container_that_exits_without_error_is_reported(local: LocalCluster):
    body = service("a", container={"command": ["python", "-c", "print('all done')"]})
    await local.cluster.create(SERVICE, body)
    found = await local.revision_condition("a-00001", "False", "ContainerHealthy")
    assert (found["reason"], found["message"]) == (
        "ExitCode0",
        "Container failed with: container exited with no error",
    )


async def test_all_containers_end_together_and_none_is_left(local: LocalCluster, tmp_path: Path):
    told = tmp_path / "pid"
    code = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    await local.cluster.create(SERVICE, with_sidecar(command=["python", "-c", code]))
    await local.ready("a")

    async def pid():
        return told.exists() and told.read_text()

    sidecar = int(await until(pid))
    main = (await local.call("a"))[1]["pid"]
    await local.cluster.delete(SERVICE, "a", "default")

    async def gone():
        return not psutil.pid_exists(sidecar) and not psutil.pid_exists(main)

    await until(gone)


async def test_the_gpus_of_all_containers_are_held(local: LocalCluster):
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    await local.cluster.create(SERVICE, with_sidecar(main=gpu, **gpu))
    await local.ready("a")
    (pod,) = await local.pods()
    assert pod["metadata"]["annotations"]["pilotlight.dev/gpu-slots"] == "0,1"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            service("a", container={"ports": [{"containerPort": 8080, "name": "h2c"}]}),
            "port h2c: this platform speaks HTTP/1.1 only",
        ),
        (
            with_sidecar(command=[], args=[]),
            "set command in spec.template.spec.containers[1]",
        ),
    ],
)
async def test_what_this_platform_cannot_do_is_warned_of(local: LocalCluster, body, text):
    warnings: list[str] = []
    async with Cluster.from_kubeconfig(local.platform.kubeconfig, on_warning=warnings.append) as cluster:
        await cluster.create(SERVICE, body)
    (said,) = warnings
    assert text in said
