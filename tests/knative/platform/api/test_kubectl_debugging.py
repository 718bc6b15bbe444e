"""kubectl, used to find out what is wrong and to change objects by hand."""

import os
import signal
import stat
from pathlib import Path

import yaml

from knative.client.resources import SERVICE
from tests.knative.platform.api.programs import Program, manifest
from tests.knative.platform.conftest import LocalCluster, service, until

LABEL = "serving.knative.dev/service=a"


async def test_kubectl_shows_events_and_logs(kubectl: Program, local: LocalCluster):
    await kubectl.run("apply", "-f", "-", stdin=manifest())
    await local.ready("a")
    (pod,) = await local.ready_pods(1)
    name = pod["metadata"]["name"]
    described = await kubectl.run("describe", "ksvc/a", f"pod/{name}", "cfg/a")
    for words in (
        ["Normal", "Created", "service-controller", 'Created Route "a"'],
        ["Normal", "ConfigurationReady", "configuration-controller"],
        ["Normal", "Started", "kubelet", "Started container user-container"],
    ):
        assert any(all(word in line for word in words) for line in described.splitlines()), words
    events = (await kubectl.run("events", "--for", "ksvc/a")).splitlines()
    assert events[0].split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert {line.split()[3] for line in events[1:]} == {"Service/a"}
    stamped = await kubectl.run("logs", "-l", LABEL, "--prefix", "--timestamps", "--since=1h", "--tail=5")
    assert stamped.startswith(f"[pod/{name}/user-container] 20")
    assert stamped.endswith("Z listening\n")
    assert "container nope is not valid for pod" in await kubectl.run("logs", name, "-c", "nope", status=1)
    os.kill((await local.call("a"))[1]["pid"], signal.SIGKILL)

    async def again() -> bool:
        return "GET / " in await kubectl.run("logs", name, "--previous")

    await until(again)
    rows = (await kubectl.run("get", "pods", "-o", "wide")).splitlines()
    assert rows[0].split("  ")[-1] == "READINESS GATES" or rows[0].endswith("READINESS GATES")
    assert "1 (" in rows[1]
    everything = await kubectl.run("get", "all", "-o", "name")
    assert {line.partition("/")[0] for line in everything.splitlines()} == {
        "pod",
        "service.serving.knative.dev",
        "configuration.serving.knative.dev",
        "revision.serving.knative.dev",
        "route.serving.knative.dev",
    }


async def test_kubectl_edits_patches_and_labels(kubectl: Program, local: LocalCluster, tmp_path: Path):
    await kubectl.run("apply", "-f", "-", stdin=manifest())
    await local.ready("a")
    different = await kubectl.run("diff", "-f", "-", stdin=manifest(spec={"timeoutSeconds": 9}), status=1)
    assert "-      timeoutSeconds: 300\n+      timeoutSeconds: 9\n" in different
    added = '[{"op":"add","path":"/metadata/labels","value":{"x":"y"}}]'
    assert "patched" in await kubectl.run("patch", "ksvc", "a", "--type=json", "-p", added)
    await kubectl.run("label", "ksvc", "a", "x=z", "--overwrite")
    await kubectl.run("annotate", "ksvc", "a", "note=1")
    shown = await kubectl.run("get", "ksvc", "-L", "x", "-o", "custom-columns=N:.metadata.annotations.note")
    assert shown.split() == ["N", "1"]
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/timeoutSeconds: 300/timeoutSeconds: 200/" "$1"\n')
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    env = {"KUBE_EDITOR": str(editor)}
    assert "edited" in await kubectl.run("edit", "ksvc", "a", env=env)
    timeout = "--for=jsonpath={.spec.template.spec.timeoutSeconds}=200"
    assert "condition met" in await kubectl.run("wait", "ksvc/a", timeout)
    refused = await kubectl.run("edit", "rev", "a-00001", env=env, status=1)
    assert "Immutable fields changed" in refused
    await kubectl.run("delete", "ksvc", "a", "--cascade=orphan")
    assert await kubectl.run("get", "cfg,rt", "-o", "name") == (
        "configuration.serving.knative.dev/a\nroute.serving.knative.dev/a\n"
    )
    await kubectl.run("delete", "cfg,rt", "a")


async def test_kubectl_goes_from_client_side_to_server_side_apply_and_back(kubectl: Program):
    def config_map(value: str) -> str:
        meta = {"name": "cm", "namespace": "default"}
        return yaml.safe_dump(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": value}}
        )

    await kubectl.run("apply", "-f", "-", stdin=config_map("one"))
    for value in ("two", "three"):
        await kubectl.run("apply", "--server-side", "-f", "-", stdin=config_map(value))
    managers = "jsonpath={.metadata.managedFields[?(@.operation=='Update')].manager}"
    assert await kubectl.run("get", "cm", "cm", "--show-managed-fields", "-o", managers) == ""
    await kubectl.run("apply", "-f", "-", stdin=config_map("four"))
    assert await kubectl.run("get", "cm", "cm", "-o", "jsonpath={.data}") == '{"a":"four"}'


async def test_kubectl_is_told_what_to_do_instead_of_exec_and_port_forward(
    kubectl: Program, local: LocalCluster
):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    (pod,) = await local.ready_pods(1)
    name, port = pod["metadata"]["name"], pod["metadata"]["annotations"]["pilotlight.dev/port"]
    for words in (("exec", name, "--", "ls"), ("attach", name), ("cp", f"{name}:/x", "y")):
        text = await kubectl.run(*words, status=1)
        assert "is not offered here: a replica is a process of this machine" in text
    text = await kubectl.run("port-forward", name, "0:80", status=1)
    assert f"answers there itself, at http://127.0.0.1:{port}" in text
    assert "doesn't have a resource type" in await kubectl.run("get", "nodes", status=1)
