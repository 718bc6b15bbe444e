"""kubectl, used as against a cluster."""

import asyncio
import json

import yaml

from tests.knative.platform.api.programs import Program, manifest


async def test_a_kubectl_session_from_apply_to_delete(kubectl: Program):
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


async def test_kubectl_prints_what_is_wrong(kubectl: Program):
    wrong = manifest().replace("containers:", "contaners:")
    text = await kubectl.run("apply", "-f", "-", stdin=wrong, status=1)
    assert 'unknown field "spec.template.spec.contaners"' in text
    text = await kubectl.run("apply", "-f", "-", stdin=manifest(scale={"min-scale": "-1"}), status=1)
    assert 'admission webhook "validation.webhook.serving.knative.dev" denied the request' in text
    assert "expected 0 <= -1 <= 2147483647" in text
    assert 'services.serving.knative.dev "nope" not found' in await kubectl.run(
        "get", "ksvc", "nope", status=1
    )


async def test_kubectl_makes_namespaces_config_maps_and_secrets(kubectl: Program):
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


async def test_kubectl_apply_of_a_built_in_kind_merges_and_prunes(kubectl: Program):
    def config_map(data):
        meta = {"name": "cm", "namespace": "default"}
        return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})

    await kubectl.run("apply", "-f", "-", stdin=config_map({"a": "1", "b": "2"}))
    await kubectl.run("patch", "cm", "cm", "-p", '{"data":{"c":"3"}}')
    await kubectl.run("apply", "-f", "-", stdin=config_map({"a": "9"}))
    data = json.loads(await kubectl.run("get", "cm", "cm", "-o", "json"))["data"]
    assert data == {"a": "9", "c": "3"}


async def test_kubectl_server_side_apply_reports_conflicts(kubectl: Program):
    await kubectl.run("apply", "--server-side", "--field-manager=one", "-f", "-", stdin=manifest())
    changed = manifest(env={"A": "b"})
    text = await kubectl.run(
        "apply", "--server-side", "--field-manager=two", "-f", "-", stdin=changed, status=1
    )
    assert 'conflict with "one"' in text
    assert ".spec.template.spec.containers" in text
    words = ("apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-")
    await kubectl.run(*words, stdin=changed)


async def test_kubectl_apply_of_an_unknown_kind_finds_no_match(kubectl: Program):
    meta = {"name": "a"}
    for api_version, kind in (
        ("apps/v1", "Deployment"),
        ("v1", "ReplicationController"),
        ("x.example/v1", "Thing"),
    ):
        body = yaml.safe_dump({"apiVersion": api_version, "kind": kind, "metadata": meta})
        text = await kubectl.run("apply", "-f", "-", stdin=body, status=1)
        assert f'no matches for kind "{kind}" in version "{api_version}"' in text


async def test_kubectl_lists_several_conflicts_as_kubernetes_does(kubectl: Program):
    def config_map(value: str) -> str:
        meta = {"name": "cm", "namespace": "default"}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": value, "b": value}}
        return yaml.safe_dump(body)

    words = ("apply", "--server-side", "-f", "-")
    await kubectl.run(*words, "--field-manager=one", stdin=config_map("1"))
    text = await kubectl.run(*words, "--field-manager=two", stdin=config_map("2"), status=1)
    assert 'error: Apply failed with 2 conflicts: conflicts with "one":\n- .data.a\n- .data.b\n' in text
    assert "Please review the fields above--they currently have other managers." in text


async def test_kubectl_watch_shows_changes(kubectl: Program):
    process = await kubectl.start("get", "ksvc", "-w", "--no-headers")
    try:
        await kubectl.run("apply", "-f", "-", stdin=manifest())
        seen = ""
        while "True" not in seen.split():
            seen = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        assert seen.split()[0] == "a"
    finally:
        process.terminate()
        await process.wait()
