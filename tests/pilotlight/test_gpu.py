"""`gpu` of an agent file: what it becomes in the objects, and how refusals read."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from pilotlight.gpu_settings import packaged_types
from tests.pilotlight.kubernetes_schemas import faults
from warmpool.adapters.price_file import packaged_prices

EXAMPLE = Path(__file__).parents[2] / "examples" / "support" / "agent.yaml"
GUIDE = Path(__file__).parents[2] / "docs" / "clusters.md"
PRODUCT = "nvidia.com/gpu.product"
GKE = "cloud.google.com/gke-accelerator"
KARPENTER = "karpenter.k8s.aws/instance-gpu-name"
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists"}


def load(tmp_path: Path, spec: dict[str, Any], generate: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The Services by the name of their stage; no stage has GPUs in its limits, and vLLM is not asked."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"].pop("warmPool")
    document["spec"]["stages"][1] |= {"engine": {"type": "onnx"}, "resources": {}}
    document["spec"] |= copy.deepcopy(spec)
    document["spec"]["stages"][1] |= copy.deepcopy(generate)
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    found = [obj for obj in compile_agent(load_agent(path)) if obj["kind"] == "Service"]
    return {obj["metadata"]["name"].removesuffix("-support"): obj for obj in found}


def pod(service: dict[str, Any]) -> dict[str, Any]:
    return service["spec"]["template"]["spec"]


def limits(service: dict[str, Any]) -> dict[str, str]:
    return pod(service)["containers"][0].get("resources", {}).get("limits", {})


@pytest.mark.parametrize(
    ("gpu", "resource", "selector", "price"),
    [
        ({"type": "nvidia-l4"}, "nvidia.com/gpu", {PRODUCT: "NVIDIA-L4"}, "nvidia-l4"),
        ({"type": "nvidia-t4", "nodeLabel": GKE}, "nvidia.com/gpu", {GKE: "nvidia-tesla-t4"}, "nvidia-t4"),
        ({"type": "nvidia-l4", "nodeLabel": KARPENTER}, "nvidia.com/gpu", {KARPENTER: "l4"}, "nvidia-l4"),
        (
            {"type": "nvidia-l4", "share": "time-slicing"},
            "nvidia.com/gpu.shared",
            {PRODUCT: "NVIDIA-L4", "nvidia.com/gpu.sharing-strategy": "time-slicing"},
            "nvidia-l4-time-slicing",
        ),
        (
            {"type": "nvidia-l4", "share": "mps", "resource": "nvidia.com/gpu"},
            "nvidia.com/gpu",
            {PRODUCT: "NVIDIA-L4-SHARED", "nvidia.com/gpu.sharing-strategy": "mps"},
            "nvidia-l4-mps",
        ),
        (
            {"type": "nvidia-l4", "share": "time-slicing", "nodeLabel": GKE},
            "nvidia.com/gpu",
            {GKE: "nvidia-l4", "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing"},
            "nvidia-l4-time-slicing",
        ),
        (
            {"type": "nvidia-b200", "share": "mig-1g.23gb"},
            "nvidia.com/mig-1g.23gb",
            {"nvidia.com/mig-1g.23gb.product": "NVIDIA-B200-MIG-1g.23gb"},
            "nvidia-b200-mig-1g.23gb",
        ),
        (
            {"type": "nvidia-b200", "share": "mig-1g.23gb", "resource": "nvidia.com/gpu"},
            "nvidia.com/gpu",
            {PRODUCT: "NVIDIA-B200-MIG-1g.23gb"},
            "nvidia-b200-mig-1g.23gb",
        ),
        (
            {"type": "nvidia-b200", "share": "mig-1g.23gb", "nodeLabel": GKE},
            "nvidia.com/gpu",
            {GKE: "nvidia-b200", "cloud.google.com/gke-gpu-partition-size": "1g.23gb"},
            "nvidia-b200-mig-1g.23gb",
        ),
        ({}, "nvidia.com/gpu", None, None),
    ],
)
def test_one_type_becomes_limits_selector_toleration_and_price(tmp_path, gpu, resource, selector, price):
    service = load(tmp_path, {}, {"gpu": gpu})["generate"]
    assert limits(service) == {resource: "1"}
    assert pod(service).get("nodeSelector") == selector
    assert pod(service)["tolerations"] == [TOLERATION]
    assert service["metadata"].get("annotations", {}).get("pilotlight.dev/gpu") == price
    assert "affinity" not in pod(service)


def test_a_type_with_several_products_and_types_in_order_of_preference_become_affinity(tmp_path):
    gpu = {"type": ["nvidia-l4", "nvidia-a100-40gb", "nvidia-t4"], "count": 2, "runtimeClassName": "nvidia"}
    service = load(tmp_path, {}, {"gpu": gpu})["generate"]
    node = pod(service)["affinity"]["nodeAffinity"]
    a100 = ["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"]
    (term,) = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": PRODUCT, "operator": "In", "values": ["NVIDIA-L4", *a100, "Tesla-T4"]}
    ]
    preferred = node["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [item["preference"]["matchExpressions"][0]["values"] for item in preferred] == [
        ["NVIDIA-L4"],
        a100,
    ]
    assert preferred[0]["weight"] > preferred[1]["weight"]
    assert limits(service) == {"nvidia.com/gpu": "2"}
    assert pod(service)["runtimeClassName"] == "nvidia"
    assert "nodeSelector" not in pod(service)
    only = load(tmp_path, {}, {"gpu": {"type": "nvidia-a100-40gb"}})["generate"]
    assert "preferredDuringSchedulingIgnoredDuringExecution" not in pod(only)["affinity"]["nodeAffinity"]


def test_a_real_api_server_would_take_the_affinity(tmp_path):
    gpu = {"type": ["nvidia-l4", "nvidia-a100-40gb"], "runtimeClassName": "nvidia"}
    assert faults(load(tmp_path, {}, {"gpu": gpu})["generate"]) == []


def test_every_alternative_of_the_files_own_affinity_is_bound_to_the_types(tmp_path):
    zones = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "ab"]
    said = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": zones}},
        "podAntiAffinity": {},
    }
    found = load(tmp_path, {"affinity": said}, {"gpu": {"type": ["nvidia-l4", "nvidia-t4"]}})
    affinity = pod(found["generate"])["affinity"]
    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [[e["key"] for e in term["matchExpressions"]] for term in terms] == [["zone", PRODUCT]] * 2
    assert "podAntiAffinity" in affinity
    assert pod(found["ingest"])["affinity"] == said


def test_the_agents_gpu_is_for_the_model_and_a_stage_may_refuse_it(tmp_path):
    found = load(tmp_path, {"gpu": {"type": "nvidia-l4"}}, {})
    assert {stage: bool(limits(service)) for stage, service in found.items()} == {
        "ingest": False, "generate": True, "postprocess": False, "orchestrate": False,
    }  # fmt: skip
    assert not limits(load(tmp_path, {"gpu": {"type": "nvidia-l4"}}, {"gpu": {"enabled": False}})["generate"])
    hosted = {"engine": {"type": "openai", "args": {"base-url": "http://x/v1", "model": "m"}}}
    assert not limits(load(tmp_path, {"gpu": {"type": "nvidia-l4"}}, hosted)["generate"])


def test_what_the_file_says_of_labels_and_tolerations_stays(tmp_path):
    mine = {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
    gpu = {"type": "nvidia-l4"}
    spec = pod(
        load(tmp_path, {"tolerations": [mine], "nodeSelector": {"zone": "a"}}, {"gpu": gpu})["generate"]
    )
    assert spec["tolerations"] == [mine, TOLERATION]
    assert spec["nodeSelector"] == {"zone": "a", PRODUCT: "NVIDIA-L4"}
    assert "tolerations" not in pod(load(tmp_path, {}, {"gpu": gpu, "tolerations": []})["generate"])
    everything = {"operator": "Exists"}
    spec = pod(load(tmp_path, {}, {"gpu": gpu, "tolerations": [everything]})["generate"])
    assert spec["tolerations"] == [everything]


def test_the_file_adds_to_the_table_of_types(tmp_path):
    types = {"rtx-6000": {"memory": "96Gi", "nodeLabels": {PRODUCT: ["NVIDIA-RTX-6000"]}}}
    found = load(tmp_path, {"gpuTypes": types}, {"gpu": {"type": "rtx-6000"}})
    assert pod(found["generate"])["nodeSelector"] == {PRODUCT: "NVIDIA-RTX-6000"}


POOL = {"warmPool": {"windows": [{"name": "always", "from": "00:00", "to": "24:00", "replicas": 1}]}}


@pytest.mark.parametrize(
    ("spec", "generate", "expected"),
    [
        ({}, {"gpu": {"type": "l4"}}, 'spec.stages.1.gpu.type = "l4": must be one of nvidia-a100-40gb,'),
        (
            {"gpu": {"type": "nvidia-a10g", "nodeLabel": GKE}},
            {},
            f'spec.gpu.type = "nvidia-a10g": has no value of the node label {GKE} (known: {PRODUCT}, {KARPENTER}',
        ),
        (
            {},
            {"gpu": {"type": "nvidia-l4", "share": "mig-1g.10gb"}},
            'spec.stages.1.gpu.share = "mig-1g.10gb": nvidia-l4 cannot be partitioned',
        ),
        (
            {},
            {"gpu": {"type": "nvidia-h200", "share": "mig-1g.10gb"}},
            "nvidia-h200 has the profiles mig-1g.18gb, mig-1g.35gb",
        ),
        ({}, {"gpu": {"share": "half"}}, 'gpu.share = "half": must be none, time-slicing, mps, or mig-'),
        ({}, {"gpu": {"share": "mps", "count": 2}}, "gpu: count (2) must be 1 with share mps"),
        ({}, {"gpu": {"type": ["nvidia-l4", "nvidia-l4"]}}, "gpu.type: must name 'nvidia-l4' once"),
        (
            {},
            {"gpu": {}, "resources": {"limits": {"nvidia.com/gpu": 1}}},
            "spec.stages.1.resources: nvidia.com/gpu stands here and in gpu: keep one of them",
        ),
        (
            {},
            {"gpu": {"count": 2}, "engine": {"type": "onnx", "args": {"tensor-parallel-size": 4}}},
            "pipeline-parallel-size (4) must be at most gpu.count (2)",
        ),
        (
            {},
            {"gpu": {"type": "nvidia-l4"}, "nodeSelector": {PRODUCT: "NVIDIA-L4"}},
            f"spec.stages.1.nodeSelector: {PRODUCT} is what gpu.type chooses by",
        ),
        (
            {},
            {"gpu": {"type": "nvidia-h200"}, **POOL},
            'gpu.type = "nvidia-h200": the warm pool of stage generate needs the price of nvidia-h200, which',
        ),
        (
            {"gpuTypes": {"x": {"memory": "big"}}},
            {},
            'gpuTypes.x.memory = "big": must be a Kubernetes quantity',
        ),
        (
            {"gpuTypes": {"x": {"memory": "1Gi", "mig": ["a"]}}},
            {},
            "'a' must be a MIG profile such as 1g.10gb",
        ),
    ],
)
def test_refusals_name_line_field_value_and_what_is_right(tmp_path, spec, generate, expected):
    with pytest.raises(AgentFileError) as caught:
        load(tmp_path, spec, generate)
    (line,) = str(caught.value).splitlines()
    assert expected in line
    assert line.removeprefix(f"{tmp_path / 'agent.yaml'}:").split(":")[0].isdigit()


def test_a_price_list_of_ones_own_has_the_price(tmp_path, monkeypatch):
    prices = tmp_path / "prices.yaml"
    price = {"hourly": 5, "date": "2026-01-01", "source": "ours"}
    prices.write_text(yaml.safe_dump({"gpus": {"nvidia-h200": price}}))
    monkeypatch.setenv("PILOTLIGHT_PRICES", str(prices))
    assert load(tmp_path, {}, {"gpu": {"type": "nvidia-h200"}, **POOL})
    prices.write_text("gpus: 1")
    with pytest.raises(AgentFileError, match=f"PILOTLIGHT_PRICES={prices}: "):
        load(tmp_path, {}, {"gpu": {"type": "nvidia-h200"}, **POOL})
    assert load(tmp_path, {}, {}), "where nothing asks for a price, none is read"


def test_the_packaged_table_is_consistent():
    types = packaged_types()
    assert set(packaged_prices().gpus) <= set(types), "what has a price can be asked for"
    for name, known in types.items():
        assert known.node_labels[PRODUCT], name
        assert known.memory_bytes > 10 << 30, name
        for profile in known.mig:
            size = int(profile.partition(".")[2].removesuffix("gb"))
            # A profile is named by decimal gigabytes, rounded.
            assert size * 1e9 <= known.memory_bytes * 1.05, (name, profile)
    values = [value for known in types.values() for value in known.node_labels[PRODUCT]]
    assert len(values) == len(set(values)), "a label's value names one type"


def test_the_examples_of_the_guide_are_accepted(tmp_path):
    section = GUIDE.read_text().split("\n## GPUs\n")[1].split("\n## ")[0]
    shorthands, types = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    for line in shorthands.splitlines():
        assert limits(load(tmp_path, {}, yaml.safe_load(line))["generate"]), line
    spec = yaml.safe_load(types)["spec"]
    (name,) = spec["gpuTypes"]
    assert limits(load(tmp_path, spec, {"gpu": {"type": name}})["generate"])
