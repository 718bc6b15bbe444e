"""`pilotlight doctor`, and what `deploy` takes from it: against the local platform, and a cluster with nodes."""

import asyncio
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.responses import JSONResponse

from knative import feature_flags
from knative.client.cluster import Cluster
from knative.client.resources import CONFIG_MAP, NAMESPACE, NODE, POD
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.records import Key
from knative.local.apiserver.schemas.core_kinds import POD_SCHEMA
from pilotlight.agent_reader import load_agent
from pilotlight.doctor.cluster_facts import Claim, Reference, Right, StorageClass
from pilotlight.doctor.findings import Level, Unknown
from pilotlight.doctor.gather_cluster import CLAIM, gather
from pilotlight.doctor.gather_machine import read_machine
from pilotlight.doctor.gather_model import read_model
from pilotlight.doctor.needs import rights, stages
from pilotlight.doctor.run import Agents, check_cluster
from tests.warmpool.conftest import KINDS, ApiServer, kubeconfig
from weights.errors import WeightsError
from weights.make_model import make_model


def agent_file(folder: Path, spec: dict[str, Any], **stage: Any) -> Path:
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "broken"},
        "spec": {
            **spec,
            "stages": [
                {
                    "name": "echo",
                    "kind": "container",
                    "image": "example.com/echo:1",
                    "command": ["sleep", "9"],
                }
                | stage
            ],
        },
    }
    path = folder / "broken.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def broken_of_the_guide() -> tuple[str, str]:
    """The agent file of the guide, and what `doctor` prints of it there."""
    text = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text().split("## Check before")[1]
    (document,) = re.findall(r"```yaml\n(.*?)```", text.split("\n## ")[0], re.DOTALL)
    (output,) = re.findall(r"```console\n\$ pilotlight doctor -f broken[^\n]*\n(.*?)```", text, re.DOTALL)
    return document, output


async def run_the_patches(output: str, config: Path) -> None:
    """Do what the fixes say, as kubectl would."""
    commands = re.findall(r"fix: kubectl -n (\S+) patch configmap (\S+) --type merge -p '(.*)'", output)
    assert len(commands) == 2
    async with Cluster.from_kubeconfig(config) as cluster:
        for namespace, name, patch in commands:
            await cluster.patch(CONFIG_MAP, name, namespace, json.loads(patch))


def test_three_broken_things_are_named_with_their_fixes_and_deploy_refuses_them(cli, tmp_path):
    running = cli.start("up", "--port", "0", "--api-port", "0", "--state", str(cli.state))
    running.until(lambda text: "Ctrl-C stops" in text)
    config = str(cli.state / "kubeconfig")
    guide, output = broken_of_the_guide()
    broken = tmp_path / "broken.yaml"
    broken.write_text(guide)
    result = cli.run("doctor", "-f", "broken.yaml", "--kubeconfig", config)
    assert result.returncode == 1
    assert re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8081", result.stdout) == output
    errors = [line for line in result.stdout.splitlines() if line.startswith("error")]
    assert len(errors) == 3
    assert "kubernetes.podspec-nodeselector for echo-broken (nodeSelector)" in errors[0]
    assert "broken.yaml:12: spec.stages.0.timeoutSeconds: 900 of echo-broken must be at most 600" in errors[1]
    assert "spec.envFrom: Secret default/s3-keys does not exist" in errors[2]
    assert (
        'patch configmap config-features --type merge -p \'{"data":{"kubernetes.podspec-nodes'
        in result.stdout
    )
    assert "3 error" in result.stderr

    refused = cli.run("deploy", "-f", str(broken), "--kubeconfig", config)
    assert refused.returncode == 1
    assert [text in refused.stderr for text in ("podspec-nodeselector", "900 of echo-broken", "s3-keys")] == [
        True
    ] * 3
    assert "nothing was applied" in refused.stderr
    assert "Traceback" not in refused.stderr

    forced = cli.run("deploy", "--force", "-f", str(broken), "--kubeconfig", config)
    assert forced.returncode == 1  # the server refuses it as well
    assert "must not set the field(s): spec.template.spec.nodeSelector" in forced.stderr
    assert "needs the feature flags kubernetes.podspec-nodeselector for nodeSelector" in forced.stderr
    assert '{"data":{"kubernetes.podspec-nodeselector":"enabled"}}' in forced.stderr

    asyncio.run(run_the_patches(result.stdout, Path(config)))
    mended = cli.run("doctor", "-f", "broken.yaml", "--kubeconfig", config).stdout
    assert [line.split(":")[0] for line in mended.splitlines() if line.startswith("error")] == [
        "error    objects"
    ]

    found = json.loads(cli.run("doctor", "--state", str(cli.state), "--json").stdout)
    assert found["ok"] is True
    checks = {finding["check"] for finding in found["findings"]}
    assert {"processors", "ports", "api", "knative", "warm pools"} <= checks


def test_without_a_cluster_the_machine_is_checked(cli):
    result = cli.run("doctor", "--state", str(cli.state))
    assert result.returncode == 0, result.stdout
    for check in ("processors: ", "memory: ", "disk: ", "gpus: ", "control groups: ", "ports: ", "proxies: "):
        assert check in result.stdout
    assert "api: " not in result.stdout


def test_a_cluster_out_of_reach_is_one_error(cli, tmp_path):
    config = kubeconfig(tmp_path, 9)
    result = cli.run("doctor", "--kubeconfig", str(config))
    assert result.returncode == 1
    (line, fix) = result.stdout.splitlines()
    assert line.startswith("error    api: http://127.0.0.1:9 cannot be used: no answer from")
    assert fix.strip().startswith("fix: name a kubeconfig")


def test_a_kubeconfig_that_names_no_cluster_is_one_error(cli, tmp_path):
    result = cli.run("doctor", "--json", "--kubeconfig", str(tmp_path / "none"))
    assert result.returncode == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["level"], finding["check"]) == ("error", "api")
    assert "no usable kubeconfig in" in finding["text"]


def test_a_bad_agent_file_is_the_users_error(cli, tmp_path):
    result = cli.run("doctor", "-f", str(tmp_path / "none.yaml"))
    assert (result.returncode, "none.yaml: cannot be read" in result.stderr) == (2, True)


class ClusterWithNodes(ApiServer):
    """A Kubernetes API with nodes, claims and storage classes, that knows what its caller may do."""

    def __init__(self, folder: Path) -> None:
        others = {kind: KindInfo(kind, kind.kind.lower(), POD_SCHEMA, custom=False) for kind in (NODE, CLAIM)}
        super().__init__(folder, {**KINDS, **others})
        self.denied: set[str] = set()
        api = self.server.config.app
        self.server.config.app = self._in_front_of(api)

    def _in_front_of(self, api):
        async def answer(scope, receive, send):
            path = scope.get("path", "")
            if path == "/version":
                await JSONResponse({"gitVersion": "v1.34.0"})(scope, receive, send)
            elif path.endswith("/selfsubjectaccessreviews"):
                body = json.loads((await receive())["body"])
                verb = body["spec"]["resourceAttributes"]["verb"]
                await JSONResponse({"status": {"allowed": verb not in self.denied}})(scope, receive, send)
            elif path.endswith("/storageclasses"):
                listed = {"kind": "List", "metadata": {"resourceVersion": "1"}}
                listed["items"] = [{"metadata": {"name": "efs"}, "provisioner": "efs.csi.aws.com"}]
                await JSONResponse(listed)(scope, receive, send)
            else:
                await api(scope, receive, send)

        return answer

    def add(self, kind, namespace: str, name: str, **fields: Any) -> None:
        status = fields.pop("status", None)
        meta = {"name": name, **fields.pop("metadata", {})}
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **fields}
        self.registry.create(kind, namespace, obj)
        if status is not None:
            self.registry.set_status(Key(kind, namespace, name), status)


@pytest.fixture
async def nodes(tmp_path):
    server = ClusterWithNodes(tmp_path)
    await server.started()
    yield server
    await server.stop()


GPU = "nvidia.com/gpu"
SPEC = {
    "image": "example.com/functions:1",
    "gpu": {"type": "nvidia-l4"},
    "serviceAccountName": "reads-s3",
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}


async def test_each_fact_is_read_for_itself(nodes, tmp_path):
    nodes.add(NAMESPACE, "", "knative-serving", metadata={"labels": {"app.kubernetes.io/version": "1.22.0"}})
    nodes.add(
        CONFIG_MAP, "knative-serving", "config-features", data={"kubernetes.podspec-affinity": "enabled"}
    )
    nodes.add(
        NODE, "", "gpu-1",
        metadata={"labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}},
        spec={"taints": [{"key": GPU, "effect": "NoSchedule"}]},
        status={"allocatable": {GPU: "4", "cpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]},
    )  # fmt: skip
    container = {"name": "user", "image": "x", "resources": {"limits": {GPU: "2"}}}
    nodes.add(POD, "default", "other", spec={"nodeName": "gpu-1", "containers": [container]})
    nodes.add(CLAIM, "default", "data", spec={"accessModes": ["ReadWriteOnce"]}, status={"phase": "Bound"})
    nodes.denied = {"patch"}
    agent = load_agent(agent_file(tmp_path, SPEC, gpu={"type": "nvidia-l4"}))
    async with Cluster.from_kubeconfig(kubeconfig(tmp_path, nodes.port)) as cluster:
        facts = await gather(cluster, stages([agent]), rights([agent]))
    assert facts.version == "v1.34.0"
    assert not facts.local
    assert facts.serving == "1.22.0"
    assert facts.features == {"kubernetes.podspec-affinity": "enabled"}
    assert facts.defaults == {}
    assert facts.rights[Right("create", "serving.knative.dev", "services", "default")] is True
    assert facts.rights[Right("patch", "serving.knative.dev", "services", "default")] is False
    (node,) = facts.nodes
    assert (node.name, node.gpus, node.taken, node.schedulable) == ("gpu-1", {GPU: 4}, {GPU: 2}, True)
    assert node.taints == ({"key": GPU, "effect": "NoSchedule"},)
    assert facts.claims == {("default", "data"): Claim(("ReadWriteOnce",), None, "Bound")}
    assert facts.storage_classes == (StorageClass("efs", "efs.csi.aws.com"),)
    assert facts.references[Reference("Namespace", "default")] is True
    account = facts.references[Reference("ServiceAccount", "reads-s3", "default")]
    assert account is False or isinstance(account, Unknown)  # this API does not have the kind


async def test_a_reading_that_fails_leaves_the_others(nodes, tmp_path):
    nodes.add(NAMESPACE, "", "knative-serving", metadata={"labels": {"app.kubernetes.io/version": "1.23.0"}})
    nodes.add(NODE, "", "odd", status={"allocatable": {GPU: "many"}})
    path = agent_file(tmp_path, SPEC, gpu={"type": "nvidia-l4"})
    async with Cluster.from_kubeconfig(kubeconfig(tmp_path, nodes.port)) as cluster:
        lines = await check_cluster(cluster, Agents([load_agent(path)], [path]))
    by_check = {}
    for line in lines:
        by_check.setdefault(line.finding.check, []).append(line)
    (gpus,) = by_check["gpus"]
    assert gpus.finding.level is Level.UNKNOWN
    assert "nodes: unknown, because the answer cannot be understood" in gpus.text
    (claim, classes) = by_check["storage"]
    assert claim.text.startswith(f"error    storage: {path}:")
    assert "claim default/data does not exist" in claim.text
    assert "efs (EFS)" in classes.text
    assert by_check["knative"][0].finding.level is Level.OK


def test_the_machine_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://user:secret@proxy:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    facts = read_machine({"cache": tmp_path / "not" / "there"}, (0,), platform=False)
    assert facts.processors > 0
    assert facts.available_bytes > 0
    assert isinstance(facts.disks["cache"], int)
    assert facts.ports == {0: False}
    assert facts.proxies["http"] == "http://proxy:3128"
    assert facts.loopback_is_direct is False


def test_tools_of_the_machine_are_asked(tmp_path, monkeypatch):
    for name, says in (("nvidia-smi", "NVIDIA L4, 23034 MiB"), ("criu", "Version: 4.1.1")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    facts = read_machine({}, (), platform=True)
    assert (facts.gpus, facts.criu) == (("NVIDIA L4, 23034 MiB",), "4.1.1")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert isinstance(read_machine({}, (), platform=True).gpus, Unknown)


def test_a_model_is_described_without_its_tensors(tmp_path):
    make_model(tmp_path / "model")
    facts = read_model(str(tmp_path / "model"))
    assert facts.parameters > 500_000
    assert facts.stored_bytes >= facts.parameters
    assert facts.config["num_hidden_layers"] > 0


@pytest.mark.parametrize("cloud", ["eks", "gke", "aks", "k3s"])
def test_the_flags_that_doctor_asks_for_are_those_of_the_cluster_examples(cloud):
    folder = Path(__file__).parents[2] / "examples" / "clusters" / cloud
    enabled: set[str] = set()
    for document in yaml.safe_load_all((folder / "knative.yaml").read_text()):
        if document["metadata"]["name"] == "config-features":
            enabled |= {key for key, value in document["data"].items() if value == "enabled"}
    needs = stages([load_agent(folder / "agent.yaml")])
    needed = {f"kubernetes.{flag}" for need in needs for flag in feature_flags.needed(need.spec)}
    assert needed - {"kubernetes.podspec-volumes-emptydir"} == enabled


def test_a_store_that_does_not_answer_is_given_up_soon(tmp_path, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        began = time.monotonic()
        with pytest.raises(WeightsError, match="s3://models/llama"):
            read_model("s3://models/llama")
    assert time.monotonic() - began < 20
