"""A pod: its environment, readiness, termination, restarts, volumes and logs."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from knative.client.resources import CONFIG_MAP, POD, SECRET, SERVICE
from knative.local.kubelet.logs import KEPT_FILES, ROTATE_BYTES, ContainerLogs
from knative.service_token import service_token
from tests.knative.platform.conftest import LocalCluster, condition, service, until

KEY = "the key of every token"
PLATFORM = {
    "env": {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "COLOUR": "platform"},
    "workdir": Path(__file__).parent,
    "admin_key": KEY,
}


async def test_the_environment_is_knatives_the_platforms_and_the_containers(local: LocalCluster):
    env = {
        "COLOUR": "container",
        "WHERE": "$(PILOTLIGHT_GATEWAY)/x",
        "DOLLAR": "$$(PORT)",
        "NONE": "$(NO_SUCH)",
    }
    await local.cluster.create(SERVICE, service("a", env=env, args=["--port=$(PORT)", "$(COLOUR)"]))
    await local.ready("a")
    _, seen = await local.call("a", "/env")
    assert (seen["K_SERVICE"], seen["K_CONFIGURATION"], seen["K_REVISION"]) == ("a", "a", "a-00001")
    assert seen["PILOTLIGHT_HOST"] == "127.0.0.1"
    assert seen["PILOTLIGHT_GATEWAY"] == local.platform.gateway_url
    assert seen["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert seen["COLOUR"] == "container"
    assert seen["WHERE"] == f"{local.platform.gateway_url}/x"
    assert (seen["DOLLAR"], seen["NONE"]) == ("$(PORT)", "$(NO_SUCH)")
    assert "PATH" in seen
    assert "HOME" in seen
    _, about = await local.call("a")
    assert about["argv"] == [f"--port={seen['PORT']}", "container"]
    assert about["cwd"] == str(Path(__file__).parent)
    assert Path(psutil.Process(about["pid"]).exe()).resolve() == Path(sys.executable).resolve()


async def test_a_pods_annotations_tell_its_port_its_slots_and_times_in_microseconds(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", gpus=1, env={"START_DELAY_S": "0.2"}))
    await local.ready("a")
    (pod,) = await local.pods()
    marks = pod["metadata"]["annotations"]
    assert (
        marks["pilotlight.dev/scheduled-at"]
        <= marks["pilotlight.dev/started-at"]
        < marks["pilotlight.dev/ready-at"]
    )
    assert len(marks["pilotlight.dev/ready-at"]) == len("2026-11-24T10:00:00.000000Z")
    assert marks["pilotlight.dev/gpu-slots"] == "0"
    assert pod["status"]["startTime"] == marks["pilotlight.dev/scheduled-at"][:19] + "Z"
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    _, env = await local.call("a", "/env")
    assert env["PORT"] == marks["pilotlight.dev/port"]
    assert {item["type"] for item in pod["status"]["conditions"]} == {
        "ContainersReady",
        "Initialized",
        "PodScheduled",
        "Ready",
    }


async def test_the_port_that_a_pod_names_is_the_platforms_whatever_its_revision_says(local: LocalCluster):
    told = {"pilotlight.dev/port": "1@evil.example/path#", "example.com/own": "kept"}
    await local.cluster.create(SERVICE, service("a", annotations=told, env={"START_DELAY_S": "0.3"}))

    async def there():
        return await local.pods()

    (young,) = await until(there)
    assert young["metadata"]["annotations"].get("pilotlight.dev/port", "0").isdecimal()
    await local.ready("a")
    (pod,) = await local.pods()
    marks = pod["metadata"]["annotations"]
    assert marks["pilotlight.dev/port"] == (await local.call("a", "/env"))[1]["PORT"]
    assert marks["example.com/own"] == "kept"


async def test_a_service_has_an_admin_token_of_its_own(local: LocalCluster):
    for name in ("a", "b"):
        await local.cluster.create(SERVICE, service(name))
        await local.ready(name)
        _, seen = await local.call(name, "/env")
        assert seen["PILOTLIGHT_ADMIN_TOKEN"] == service_token(KEY, "default", name)
        assert KEY not in seen.values()


async def test_env_comes_from_config_maps_and_secrets(local: LocalCluster):
    await local.cluster.create(
        CONFIG_MAP, {"metadata": {"name": "cm", "namespace": "default"}, "data": {"A": "1", "B": "2"}}
    )
    await local.cluster.create(
        SECRET, {"metadata": {"name": "s", "namespace": "default"}, "stringData": {"KEY": "secret words"}}
    )
    container = {
        "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "CM_"}],
        "env": [
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "KEY"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "B"}}},
            {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "nope", "key": "B", "optional": True}}},
        ],
    }
    await local.cluster.create(SERVICE, service("a", container=container))
    await local.ready("a")
    _, seen = await local.call("a", "/env")
    assert (seen["CM_A"], seen["KEY"], seen["B"], "X" in seen) == ("1", "secret words", "2", False)


async def test_a_missing_config_map_is_named_and_waited_for(local: LocalCluster):
    container = {"env": [{"name": "B", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "B"}}}]}
    await local.cluster.create(SERVICE, service("a", container=container))
    found = await local.revision_condition("a-00001", "False", "ContainerHealthy")
    assert (found["reason"], found["message"]) == ("CreateContainerConfigError", 'configmap "cm" not found')
    await local.cluster.create(
        CONFIG_MAP, {"metadata": {"name": "cm", "namespace": "default"}, "data": {"B": "2"}}
    )
    await local.ready("a")


async def test_requests_wait_for_the_readiness_probe(local: LocalCluster):
    probe = {"readinessProbe": {"httpGet": {"path": "/ready"}}}
    await local.cluster.create(SERVICE, service("a", env={"READY_AFTER_S": "0.7"}, container=probe))
    begun = time.monotonic()
    assert (await local.call("a"))[0] == 200
    assert time.monotonic() - begun >= 0.7


async def test_a_replica_that_stops_being_ready_gets_no_requests(local: LocalCluster):
    probe = {"readinessProbe": {"httpGet": {"path": "/ready"}, "periodSeconds": 1, "failureThreshold": 1}}
    await local.cluster.create(SERVICE, service("a", container=probe, scale={"min-scale": "2"}))
    await local.ready_pods(2)
    _, first = await local.call("a", "/unready")
    assert first == {}

    async def one():
        return sum(condition(pod)["status"] == "True" for pod in await local.pods()) == 1

    await until(one)
    assert len({(await local.call("a"))[1]["pid"] for _ in range(10)}) == 1


async def test_a_failing_startup_probe_restarts_the_container(local: LocalCluster):
    probe = {
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": 8080},
            "periodSeconds": 1,
            "failureThreshold": 1,
        }
    }
    await local.cluster.create(SERVICE, service("a", env={"READY_AFTER_S": "100"}, container=probe))

    async def restarted():
        return any(pod["status"]["containerStatuses"][0]["restartCount"] for pod in await local.pods())

    await until(restarted)


async def test_a_killed_replica_is_replaced_and_requests_go_on(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    pid = (await local.call("a"))[1]["pid"]
    os.kill(pid, signal.SIGKILL)
    status, body = await local.call("a")
    assert status == 200
    assert body["pid"] != pid

    async def told():
        (pod,) = await local.pods()
        state = pod["status"]["containerStatuses"][0]
        return state["ready"] and state

    state = await until(told)
    assert state["restartCount"] == 1
    assert state["lastState"]["terminated"]["exitCode"] == 137
    await local.ready("a")


async def test_a_request_under_way_is_finished_before_its_replica_ends(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    slow = asyncio.ensure_future(local.call("a", "/slow?s=1"))
    (pod,) = await local.pods()

    async def in_flight():
        async with local.http.get(f"{local.platform.api_url}/metrics") as answer:
            return (
                'activator_request_concurrency{namespace_name="default",revision_name="a-00001",service_name="a"} 1.0'
                in await answer.text()
            )

    await until(in_flight)
    await local.cluster.delete(POD, pod["metadata"]["name"], "default")
    assert (await slow)[0] == 200


async def test_sigterm_is_heard_although_requests_have_taken_all_the_time(
    local: LocalCluster, tmp_path: Path
):
    heard = tmp_path / "heard"
    program = (
        "import http.server, os, signal, sys, time\n"
        f"def stop(*_): open({str(heard)!r}, 'w').close(); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "class Slow(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): time.sleep(600)\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Slow).serve_forever()\n"
    )
    await local.cluster.create(SERVICE, service("a", container={"command": ["python", "-c", program]}))
    await local.ready("a")
    (pod,) = await local.pods()
    slow = asyncio.ensure_future(local.http.get(f"{local.platform.gateway_url}/default/a/"))

    async def in_flight():
        async with local.http.get(f"{local.platform.api_url}/metrics") as answer:
            return 'revision_name="a-00001",service_name="a"} 1.0' in await answer.text()

    await until(in_flight)
    user = yaml.safe_load(local.platform.kubeconfig.read_text())["users"][0]["user"]
    url = f"{local.platform.api_url}/api/v1/namespaces/default/pods/{pod['metadata']['name']}"
    headers = {"Authorization": f"Bearer {user['token']}"}
    async with local.http.delete(f"{url}?gracePeriodSeconds=1", headers=headers) as answer:
        assert answer.status == 200

    async def told():
        return heard.exists()

    await until(told)
    slow.cancel()


async def test_a_replica_that_ignores_sigterm_is_killed(local: LocalCluster):
    spec = {"timeoutSeconds": 1}
    await local.cluster.create(SERVICE, service("a", env={"IGNORE_TERM": "1", "CHILD": "1"}, spec=spec))
    await local.ready("a")
    pid = (await local.call("a"))[1]["pid"]
    await local.cluster.delete(SERVICE, "a", "default")

    async def gone():
        return not psutil.pid_exists(pid)

    await until(gone)


async def test_output_is_kept_in_a_file_and_served_by_the_api(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    (pod,) = await local.pods()
    name = pod["metadata"]["name"]
    path = local.platform.logs / "default" / f"{name}.log"
    assert "listening" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


async def test_pods_cannot_be_made_by_hand(local: LocalCluster):
    from knative.client.errors import Forbidden

    with pytest.raises(Forbidden, match="create a Service instead"):
        await local.cluster.create(
            POD, {"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": []}}
        )


async def test_volumes_are_seen_at_their_paths_and_nowhere_else(local: LocalCluster, tmp_path: Path):
    features = {"name": "config-features", "namespace": "knative-serving"}
    switches = {
        "kubernetes.podspec-persistent-volume-claim": "enabled",
        "kubernetes.podspec-persistent-volume-write": "enabled",
    }
    await local.cluster.apply(CONFIG_MAP, {"metadata": features, "data": switches})
    meta = {"name": "v", "namespace": "default"}
    await local.cluster.create(CONFIG_MAP, {"metadata": meta, "data": {"greeting": "hello", "other": "x"}})
    await local.cluster.create(SECRET, {"metadata": meta, "stringData": {"key": "secret words"}})
    claim = local.platform.config.state_dir / "claims" / "default" / "models"
    claim.mkdir(parents=True)
    (claim / "weights").write_text("model")
    root = tmp_path / "seen"
    paths = {name: str(root / name) for name in ("config", "secret", "scratch", "models")}
    await local.cluster.create(
        SERVICE,
        service(
            "a",
            container={"volumeMounts": [{"name": name, "mountPath": path} for name, path in paths.items()]},
            spec={
                "volumes": [
                    {
                        "name": "config",
                        "configMap": {"name": "v", "items": [{"key": "greeting", "path": "in/it"}]},
                    },
                    {"name": "secret", "secret": {"secretName": "v"}},
                    {"name": "scratch", "emptyDir": {"medium": "Memory"}},
                    {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
                ]
            },
        ),
    )
    await local.ready("a")
    for path, content in (
        ("config/in/it", "hello"),
        ("secret/key", "secret words"),
        ("models/weights", "model"),
    ):
        assert await local.call("a", f"/file?={root}/{path}") == (200, {"content": content})
    assert list((root / "config").iterdir()) == []  # the machine itself sees an empty folder


async def test_a_volume_whose_secret_is_missing_says_so(local: LocalCluster, tmp_path: Path):
    body = service(
        "a",
        container={"volumeMounts": [{"name": "s", "mountPath": str(tmp_path / "s")}]},
        spec={"volumes": [{"name": "s", "secret": {"secretName": "nope"}}]},
    )
    await local.cluster.create(SERVICE, body)
    found = await local.revision_condition("a-00001", "False", "ContainerHealthy")
    assert (found["reason"], found["message"]) == ("CreateContainerConfigError", 'secret "nope" not found')


async def test_logs_can_be_followed_and_cut(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    (pod,) = await local.pods()
    user = yaml.safe_load(local.platform.kubeconfig.read_text())["users"][0]["user"]
    headers = {"Authorization": f"Bearer {user['token']}"}
    url = f"{local.platform.api_url}/api/v1/namespaces/default/pods/{pod['metadata']['name']}/log"
    async with local.http.get(f"{url}?follow=true&tailLines=0", headers=headers) as answer:
        assert (await local.call("a", "/marker-in-the-log"))[0] == 200
        line = await asyncio.wait_for(answer.content.readline(), 10)
    assert b"/marker-in-the-log" in line
    async with local.http.get(f"{url}?tailLines=1", headers=headers) as answer:
        assert (await answer.text()).count("\n") == 1


def test_long_logs_are_rotated_and_old_ones_are_deleted(tmp_path: Path):
    logs = ContainerLogs(tmp_path)
    output = logs.open("default", "running")
    os.write(output, b"x" * (ROTATE_BYTES + 1))
    logs.rotate({("default", "running")})
    os.write(output, b"after\n")
    os.close(output)
    assert logs.path("default", "running").read_text() == "after\n"
    assert logs.path("default", "running").with_suffix(".log.1").stat().st_size == ROTATE_BYTES + 1
    for number in range(KEPT_FILES + 3):
        os.close(logs.open("default", f"gone-{number:04d}"))
        os.utime(logs.path("default", f"gone-{number:04d}"), (number, number))
    logs.rotate({("default", "running")})
    left = sorted(path.stem for path in (tmp_path / "default").glob("gone-*.log"))
    assert (len(left), left[0]) == (KEPT_FILES, "gone-0003")
    assert logs.path("default", "running").exists()
