"""Several containers in a pod: sidecars beside the one that serves, init containers before them."""

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
from tests.knative.platform.conftest import World, condition, service, until

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


async def switch(world: World, *flags: str) -> None:
    meta = {"name": "config-features", "namespace": "knative-serving"}
    body = {"metadata": meta, "data": dict.fromkeys(flags, "enabled")}
    with contextlib.suppress(NotFound):
        await world.cluster.delete(CONFIG_MAP, **meta)
    await world.cluster.create(CONFIG_MAP, body)


async def statuses(world: World) -> dict[str, Any]:
    """The only pod's container statuses by name."""
    pods = await world.pods()
    found = (pods[0].get("status") or {}).get("containerStatuses") or [] if pods else []
    return {item["name"]: item for item in found}


async def pod_row(world: World) -> list[Any]:
    """The only pod as `kubectl get pods` shows it: name, ready, status, ..."""
    user = yaml.safe_load(world.platform.kubeconfig.read_text())["users"][0]["user"]
    headers = {
        "Authorization": f"Bearer {user['token']}",
        "Accept": "application/json;as=Table;v=v1;g=meta.k8s.io",
    }
    url = f"{world.platform.api_url}/api/v1/namespaces/default/pods"
    async with world.http.get(url, headers=headers) as answer:
        (row,) = (await answer.json())["rows"]
    return row["cells"]


async def log(world: World, container: str | None) -> str:
    (pod,) = await world.pods()
    path = world.platform.logs / "default" / f"{pod['metadata']['name']}{container or ''}.log"
    return path.read_text()


async def test_a_sidecar_shares_the_pods_volumes_and_has_its_own_environment_and_log(
    world: World, tmp_path: Path
):
    mount = {"volumeMounts": [{"name": "shared", "mountPath": str(tmp_path / "seen")}]}
    body = with_sidecar(
        command=["python", "-uc", f"print('sidecar speaks'); {DUMP}", str(tmp_path / "seen" / "env")],
        env=[{"name": "OWN", "value": "sidecar"}],
        main=mount,
        **mount,
        spec={"volumes": [{"name": "shared", "emptyDir": {}}]},
    )
    await world.cluster.create(SERVICE, body)
    await world.ready("a")

    async def written():
        status, content = await world.call("a", f"/file?={tmp_path}/seen/env")
        return json.loads(content["content"]) if status == 200 and content["content"] else None

    seen = await until(written)
    assert (seen["OWN"], seen["K_SERVICE"], seen["K_REVISION"]) == ("sidecar", "a", "a-00001")
    assert "PORT" not in seen
    _, serving = await world.call("a", "/env")
    assert "OWN" not in serving
    assert seen["HOSTNAME"] == serving["HOSTNAME"]
    found = await statuses(world)
    assert {name: item["ready"] for name, item in found.items()} == {"user-container-0": True, "helper": True}
    assert (await pod_row(world))[1] == "2/2"
    assert "sidecar speaks" in await log(world, ".helper")
    assert "sidecar speaks" not in await log(world, None)
    assert "listening" in await log(world, None)


async def test_a_pod_is_ready_when_all_its_containers_are(world: World, tmp_path: Path):
    await switch(world, "multi-container-probing")
    gate = tmp_path / "open"
    body = with_sidecar(readinessProbe={"exec": {"command": ["test", "-e", str(gate)]}})
    await world.cluster.create(SERVICE, body)

    async def main_is_ready():
        found = await statuses(world)
        return found and found["user-container-0"]["ready"]

    await until(main_is_ready)
    (pod,) = await world.pods()
    waits = condition(pod)
    assert waits["status"] == "False"
    assert waits["message"].startswith("containers with unready status: [helper]")
    gate.touch()
    await world.ready("a")


async def test_a_probes_command_sees_the_containers_volumes(world: World, tmp_path: Path):
    seen = tmp_path / "seen"
    meta = {"name": "greeting", "namespace": "default"}
    await world.cluster.create(CONFIG_MAP, {"metadata": meta, "data": {"word": "hello"}})
    body = service(
        "a",
        container={
            "volumeMounts": [{"name": "v", "mountPath": str(seen)}],
            "readinessProbe": {"exec": {"command": ["grep", "-q", "hello", str(seen / "word")]}},
        },
        spec={"volumes": [{"name": "v", "configMap": {"name": "greeting"}}]},
    )
    await world.cluster.create(SERVICE, body)
    await world.ready("a")
    assert list(seen.iterdir()) == []  # the machine itself doesn't see it


async def test_a_sidecar_that_ends_starts_again_and_leaves_the_others_alone(world: World):
    await world.cluster.create(SERVICE, with_sidecar(command=["python", "-c", "exit(3)"]))

    async def has_restarted():
        found = await statuses(world)
        return found and found["helper"]["restartCount"] >= 2 and found

    found = await until(has_restarted)
    assert found["helper"]["lastState"]["terminated"]["exitCode"] == 3
    (pod,) = await world.pods()
    title = f"{pod['metadata']['name']}_default({pod['metadata']['uid']})"
    texts = [event["message"] for event in await world.cluster.list(EVENT, "default")]
    assert f"Back-off restarting failed container helper in pod {title}" in texts
    main = found["user-container-0"]
    assert (main["restartCount"], "running" in main["state"]) == (0, True)
    assert main["containerID"] == f"process://{(await world.call('a'))[1]['pid']}"


async def test_a_container_that_ends_well_is_said_to(world: World):
    body = service("a", container={"command": ["python", "-c", "print('all done')"]})
    await world.cluster.create(SERVICE, body)
    found = await world.revision_condition("a-00001", "False", "ContainerHealthy")
    assert (found["reason"], found["message"]) == (
        "ExitCode0",
        "Container failed with: container exited with no error",
    )


async def test_all_containers_end_together_and_none_is_left(world: World, tmp_path: Path):
    told = tmp_path / "pid"
    code = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    await world.cluster.create(SERVICE, with_sidecar(command=["python", "-c", code]))
    await world.ready("a")

    async def pid():
        return told.exists() and told.read_text()

    sidecar = int(await until(pid))
    main = (await world.call("a"))[1]["pid"]
    await world.cluster.delete(SERVICE, "a", "default")

    async def gone():
        return not psutil.pid_exists(sidecar) and not psutil.pid_exists(main)

    await until(gone)


async def test_the_gpus_of_all_containers_are_held(world: World):
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    await world.cluster.create(SERVICE, with_sidecar(main=gpu, **gpu))
    await world.ready("a")
    (pod,) = await world.pods()
    assert pod["metadata"]["annotations"]["pilotlight.dev/gpu-slots"] == "0,1"


def with_init(*commands: list[str], **spec: Any) -> dict[str, Any]:
    initial = [
        {"name": f"init-{number}", "image": "example.com/init", "command": command}
        for number, command in enumerate(commands)
    ]
    return service("a", spec={"initContainers": initial, **spec})


async def test_init_containers_run_in_order_before_the_others(world: World, tmp_path: Path):
    await switch(world, "kubernetes.podspec-init-containers")
    note = str(tmp_path / "note")

    def write(word):
        code = f"import os; open({note!r}, 'a').write('{word} ' + os.environ.get('K_SERVICE', '-') + '; ')"
        return ["python", "-c", code]

    await world.cluster.create(SERVICE, with_init(write("one"), write("two")))
    await world.ready("a")
    assert Path(note).read_text() == "one -; two -; "
    (pod,) = await world.pods()
    first = pod["status"]["initContainerStatuses"]
    assert [(item["name"], item["state"]["terminated"]["reason"], item["ready"]) for item in first] == [
        ("init-0", "Completed", True),
        ("init-1", "Completed", True),
    ]
    assert condition(pod, "Initialized")["status"] == "True"


async def test_an_init_container_that_fails_is_tried_again_and_told(world: World, tmp_path: Path):
    await switch(world, "kubernetes.podspec-init-containers")
    gate = tmp_path / "open"
    code = f"import os, sys; sys.exit(0 if os.path.exists({str(gate)!r}) else 'not yet')"
    await world.cluster.create(SERVICE, with_init(["python", "-c", code]))
    found = await world.revision_condition("a-00001", "False", "ContainerHealthy")
    assert (found["reason"], found["message"]) == ("ExitCode1", "Container failed with: not yet")
    (pod,) = await world.pods()
    assert condition(pod, "Initialized")["reason"] == "ContainersNotInitialized"
    (main,) = pod["status"]["containerStatuses"]
    assert main["state"]["waiting"]["reason"] == "PodInitializing"

    async def shown():
        return (await pod_row(world))[2] == "Init:CrashLoopBackOff"

    await until(shown)
    gate.touch()
    await world.ready("a")
    events = await world.cluster.list(EVENT, "default")
    assert any(event["reason"] == "BackOff" for event in events)


async def test_a_container_can_be_told_of_its_pod(world: World):
    await switch(world, "kubernetes.podspec-fieldref")

    def field(name, path):
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    def resource(name, path, divisor):
        return {"name": name, "valueFrom": {"resourceFieldRef": {"resource": path, "divisor": divisor}}}

    container = {
        "resources": {"limits": {"memory": "200Mi", "cpu": "1500m"}},
        "env": [
            field("POD", "metadata.name"),
            field("NAMESPACE", "metadata.namespace"),
            field("REVISION", "metadata.labels['serving.knative.dev/revision']"),
            field("NOTE", "metadata.annotations['example.com/note']"),
            field("IP", "status.podIP"),
            field("NODE", "spec.nodeName"),
            resource("MEMORY", "limits.memory", "1Mi"),
            resource("CPUS", "limits.cpu", "0"),
            resource("MILLIS", "requests.cpu", "1m"),
            {"name": "BOTH", "value": "$(POD)/$(IP)"},
        ],
    }
    body = service("a", container=container, annotations={"example.com/note": "hello"})
    await world.cluster.create(SERVICE, body)
    await world.ready("a")
    (pod,) = await world.pods()
    _, seen = await world.call("a", "/env")
    name = pod["metadata"]["name"]
    assert (seen["POD"], seen["NAMESPACE"], seen["REVISION"]) == (name, "default", "a-00001")
    assert (seen["NOTE"], seen["IP"], seen["NODE"]) == ("hello", "127.0.0.1", "localhost")
    assert (seen["MEMORY"], seen["CPUS"], seen["MILLIS"]) == ("200", "2", "1500")
    assert seen["BOTH"] == f"{name}/127.0.0.1"


async def test_a_file_can_tell_a_container_of_its_pod(world: World, tmp_path: Path):
    seen = tmp_path / "seen"
    items = [
        {"path": "in/name", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        {"path": "limit", "resourceFieldRef": {"resource": "limits.memory", "divisor": "1Ki"}},
    ]
    volume = {"name": "pod", "projected": {"sources": [{"downwardAPI": {"items": items}}]}}
    body = service(
        "a",
        container={
            "volumeMounts": [{"name": "pod", "mountPath": str(seen)}],
            "resources": {"limits": {"memory": "1Gi"}},
        },
        annotations={"example.com/note": 'say "so"'},
        spec={"volumes": [volume]},
    )
    await world.cluster.create(SERVICE, body)
    await world.ready("a")
    (pod,) = await world.pods()

    async def content(name):
        return (await world.call("a", f"/file?={seen}/{name}"))[1]["content"]

    assert await content("in/name") == pod["metadata"]["name"]
    assert 'example.com/note="say \\"so\\""' in (await content("annotations")).splitlines()
    assert await content("limit") == str(1 << 20)


async def test_a_field_that_is_not_there_is_named(world: World):
    await switch(world, "kubernetes.podspec-fieldref")
    env = [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.nonsense"}}}]
    await world.cluster.create(SERVICE, service("a", container={"env": env}))
    found = await world.revision_condition("a-00001", "False", "ContainerHealthy")
    assert found["reason"] == "CreateContainerConfigError"
    assert found["message"].startswith("unsupported fieldPath: metadata.nonsense; there are metadata.name,")


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
async def test_what_this_platform_cannot_do_is_warned_of(world: World, body, text):
    warnings: list[str] = []
    async with Cluster.from_kubeconfig(world.platform.kubeconfig, on_warning=warnings.append) as cluster:
        await cluster.create(SERVICE, body)
    (said,) = warnings
    assert text in said
