"""kubectl, the official Python client and lightkube cannot tell the platform from a cluster."""

import asyncio
import json
import shutil
from pathlib import Path

import kubernetes
import pytest
import yaml
from lightkube import AsyncClient, KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.core_v1 import ConfigMap, Pod
from lightkube.types import PatchType

from tests.knative.platform.conftest import World, service, until

KSERVICE = create_namespaced_resource("serving.knative.dev", "v1", "Service", "services")


class Kubectl:
    """kubectl against the test's platform."""

    def __init__(self, world: World, home: Path) -> None:
        self.env = {"KUBECONFIG": str(world.platform.kubeconfig), "HOME": str(home), "PATH": "/usr/bin:/bin"}

    async def run(self, *words: str, stdin: str = "", status: int = 0) -> str:
        """Output of a command that is expected to end with `status`; both streams."""
        program = shutil.which("kubectl")
        assert program is not None
        process = await asyncio.create_subprocess_exec(
            program,
            *words,
            env=self.env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 30)
        text = output.decode()
        assert process.returncode == status, f"kubectl {' '.join(words)}: {text}"
        return text


@pytest.fixture
def kubectl(world: World, tmp_path: Path) -> Kubectl:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return Kubectl(world, tmp_path)


def manifest(name: str = "a", **options) -> str:
    return yaml.safe_dump(
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", **service(name, **options)}
    )


async def test_a_kubectl_session_from_apply_to_delete(kubectl: Kubectl):
    assert "service.serving.knative.dev/a created" in await kubectl.run("apply", "-f", "-", stdin=manifest())
    assert "condition met" in await kubectl.run("wait", "ksvc/a", "--for=condition=Ready", "--timeout=20s")
    table = await kubectl.run("get", "ksvc")
    assert table.split()[:6] == ["NAME", "URL", "LATESTCREATED", "LATESTREADY", "READY", "REASON"]
    await kubectl.run("apply", "-f", "-", stdin=manifest())
    assert await kubectl.run("get", "ksvc", "a", "-o", "jsonpath={.metadata.generation}") == "1"
    await kubectl.run("annotate", "rev", "a-00001", "autoscaling.knative.dev/min-scale=2", "--overwrite")
    ready = "--for=jsonpath={.status.actualReplicas}=2"
    assert "condition met" in await kubectl.run("wait", "rev/a-00001", ready, "--timeout=20s")
    rows = (await kubectl.run("get", "pods", "--no-headers")).splitlines()
    assert [row.split()[1:3] for row in rows] == [["1/1", "Running"]] * 2
    assert "configured" in await kubectl.run("apply", "-f", "-", stdin=manifest(env={"A": "b"}))
    assert "a-00002" in await kubectl.run("get", "rev", "-o", "name")
    assert "Created Revision" in await kubectl.run("get", "events")
    assert "listening" in await kubectl.run("logs", "-l", "serving.knative.dev/configuration=a")
    assert "nvidia.com/gpu" in await kubectl.run("explain", "ksvc.spec.template.spec.containers.resources")
    assert "Latest Ready Revision Name" in await kubectl.run("describe", "ksvc", "a")
    assert "deleted" in await kubectl.run("delete", "ksvc", "a")
    assert "No resources found" in await kubectl.run("get", "ksvc,rev,cfg,rt,pa")


async def test_kubectl_hears_of_mistakes(kubectl: Kubectl):
    wrong = manifest().replace("containers:", "contaners:")
    text = await kubectl.run("apply", "-f", "-", stdin=wrong, status=1)
    assert 'unknown field "spec.template.spec.contaners"' in text
    text = await kubectl.run("apply", "-f", "-", stdin=manifest(scale={"min-scale": "-1"}), status=1)
    assert 'admission webhook "validation.webhook.serving.knative.dev" denied the request' in text
    assert "expected 0 <= -1 <= 2147483647" in text
    assert 'services.serving.knative.dev "nope" not found' in await kubectl.run(
        "get", "ksvc", "nope", status=1
    )


async def test_kubectl_makes_namespaces_config_maps_and_secrets(kubectl: Kubectl):
    await kubectl.run("create", "namespace", "team")
    await kubectl.run("create", "configmap", "settings", "--from-literal=a=b", "-n", "team")
    await kubectl.run("create", "secret", "generic", "keys", "--from-literal=p=q", "-n", "team")
    assert await kubectl.run("get", "cm", "settings", "-n", "team", "-o", "jsonpath={.data.a}") == "b"
    assert await kubectl.run("get", "secret", "keys", "-n", "team", "-o", "jsonpath={.data.p}") == "cQ=="
    await kubectl.run("label", "cm", "settings", "-n", "team", "x=y")
    assert "settings" in await kubectl.run("get", "cm", "-n", "team", "-l", "x=y", "-o", "name")
    await kubectl.run("delete", "namespace", "team")
    text = await kubectl.run("create", "configmap", "settings", "-n", "team", status=1)
    assert 'namespaces "team" not found' in text


async def test_kubectl_apply_of_a_built_in_kind_merges_and_prunes(kubectl: Kubectl):
    def config_map(data):
        meta = {"name": "cm", "namespace": "default"}
        return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})

    await kubectl.run("apply", "-f", "-", stdin=config_map({"a": "1", "b": "2"}))
    await kubectl.run("patch", "cm", "cm", "-p", '{"data":{"c":"3"}}')
    await kubectl.run("apply", "-f", "-", stdin=config_map({"a": "9"}))
    data = json.loads(await kubectl.run("get", "cm", "cm", "-o", "json"))["data"]
    assert data == {"a": "9", "c": "3"}


async def test_kubectl_server_side_apply_meets_conflicts(kubectl: Kubectl):
    await kubectl.run("apply", "--server-side", "--field-manager=one", "-f", "-", stdin=manifest())
    changed = manifest(env={"A": "b"})
    text = await kubectl.run(
        "apply", "--server-side", "--field-manager=two", "-f", "-", stdin=changed, status=1
    )
    assert 'conflict with "one"' in text
    assert ".spec.template.spec.containers" in text
    words = ("apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-")
    await kubectl.run(*words, stdin=changed)


async def test_kubectl_watch_shows_changes(kubectl: Kubectl, world: World):
    program = shutil.which("kubectl")
    process = await asyncio.create_subprocess_exec(
        program, "get", "ksvc", "-w", "--no-headers", env=kubectl.env, stdout=asyncio.subprocess.PIPE
    )
    try:
        await kubectl.run("apply", "-f", "-", stdin=manifest())
        seen = ""
        while "True" not in seen.split():
            seen = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        assert seen.split()[0] == "a"
    finally:
        process.terminate()
        await process.wait()


async def test_the_official_python_client_creates_watches_patches_and_deletes(world: World):
    def session() -> list[str]:
        client = kubernetes.config.new_client_from_config(str(world.platform.kubeconfig))
        custom = kubernetes.client.CustomObjectsApi(client)
        core = kubernetes.client.CoreV1Api(client)
        where = {
            "group": "serving.knative.dev",
            "version": "v1",
            "namespace": "default",
            "plural": "services",
        }
        body = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", **service("a")}
        custom.create_namespaced_custom_object(body=body, **where)
        seen = []
        watch = kubernetes.watch.Watch()
        for event in watch.stream(custom.list_namespaced_custom_object, timeout_seconds=20, **where):
            conditions = (event["object"].get("status") or {}).get("conditions") or []
            seen.append(event["type"])
            if any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
                watch.stop()
        patched = custom.patch_namespaced_custom_object(
            name="a", body={"metadata": {"labels": {"x": "y"}}}, **where
        )
        assert patched["metadata"]["labels"]["x"] == "y"
        pods = core.list_namespaced_pod("default")
        assert [pod.status.phase for pod in pods.items] == ["Running"]
        assert pods.items[0].metadata.creation_timestamp is not None
        config_map = kubernetes.client.V1ConfigMap(
            metadata=kubernetes.client.V1ObjectMeta(name="cm"), data={"a": "b"}
        )
        core.create_namespaced_config_map("default", config_map)
        assert core.read_namespaced_config_map("cm", "default").data == {"a": "b"}
        with pytest.raises(kubernetes.client.ApiException) as refused:
            core.create_namespaced_config_map("default", config_map)
        assert refused.value.status == 409
        dynamic = kubernetes.dynamic.DynamicClient(client)
        kind = dynamic.resources.get(api_version="serving.knative.dev/v1", kind="Revision")
        assert [item.metadata.name for item in kind.get(namespace="default").items] == ["a-00001"]
        custom.delete_namespaced_custom_object(name="a", **where)
        client.close()
        return seen

    seen = await asyncio.to_thread(session)
    assert seen[0] == "ADDED"
    assert set(seen) == {"ADDED", "MODIFIED"} or seen == ["ADDED"]


async def test_lightkubes_own_verbs_work(world: World):
    config = KubeConfig.from_file(world.platform.kubeconfig)
    client = AsyncClient(config=config.get(), field_manager="lightkube")
    try:
        created = await client.create(
            KSERVICE({"apiVersion": "serving.knative.dev/v1", "kind": "Service", **service("a")})
        )
        assert created.metadata.name == "a"
        async for kind, obj in client.watch(KSERVICE, namespace="default"):
            ready = [item for item in (obj.status or {}).get("conditions", []) if item["type"] == "Ready"]
            if kind == "MODIFIED" and ready and ready[0]["status"] == "True":
                break
        body = {"metadata": {"annotations": {"note": "x"}}}
        patched = await client.patch(KSERVICE, "a", body, namespace="default", patch_type=PatchType.MERGE)
        assert patched.metadata.annotations["note"] == "x"
        config_map = ConfigMap.from_dict(
            {"metadata": {"name": "cm", "namespace": "default"}, "data": {"a": "b"}}
        )
        assert (await client.apply(config_map, field_manager="one")).data == {"a": "b"}
        config_map.data = {"a": "c"}
        with pytest.raises(ApiError) as refused:
            await client.apply(config_map, field_manager="two")
        assert refused.value.status.code == 409
        pods = [
            pod
            async for pod in client.list(
                Pod, namespace="default", labels={"serving.knative.dev/service": "a"}
            )
        ]
        assert [pod.status.phase for pod in pods] == ["Running"]
        await client.delete(KSERVICE, "a", namespace="default")

        async def gone():
            return [item async for item in client.list(KSERVICE, namespace="default")] == []

        await until(gone)
    finally:
        await client.close()
