"""The official Python client and lightkube, used as against a cluster."""

import asyncio

import kubernetes
import pytest
from lightkube import AsyncClient, KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.core_v1 import ConfigMap, Pod
from lightkube.types import PatchType

from tests.knative.platform.conftest import LocalCluster, service, until

KSERVICE = create_namespaced_resource("serving.knative.dev", "v1", "Service", "services")


async def test_the_official_python_client_creates_watches_patches_and_deletes(local: LocalCluster):
    def session() -> list[str]:
        client = kubernetes.config.new_client_from_config(str(local.platform.kubeconfig))
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


async def test_lightkube_creates_watches_patches_applies_and_deletes(local: LocalCluster):
    config = KubeConfig.from_file(local.platform.kubeconfig)
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
