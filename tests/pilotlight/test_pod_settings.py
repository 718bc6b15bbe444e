"""What the agent file says of pods: where it stands in the objects, and how refusals read."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent

EXAMPLE = Path(__file__).parents[2] / "examples" / "support" / "agent.yaml"
VISIBILITY = "networking.knative.dev/visibility"
CLAIM = {"persistentVolumeClaim": {"claimName": "weights"}}
TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
AFFINITY = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
SPREAD = [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}]


def example(spec: dict[str, Any], generate: dict[str, Any]) -> dict[str, Any]:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"] |= copy.deepcopy(spec)
    document["spec"]["stages"][1] |= copy.deepcopy(generate)
    return document


def services(tmp_path: Path, spec: dict[str, Any], **generate: Any) -> dict[str, dict[str, Any]]:
    """The Services by the name of their stage."""
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(example(spec, generate)))
    found = [obj for obj in compile_agent(load_agent(path)) if obj["kind"] == "Service"]
    return {obj["metadata"]["name"].removesuffix("-support"): obj for obj in found}


def pod(service: dict[str, Any]) -> dict[str, Any]:
    return service["spec"]["template"]["spec"]


def env(service: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod(service)["containers"][0]["env"]}


@pytest.mark.parametrize(
    "source",
    [
        CLAIM,
        {"emptyDir": {"sizeLimit": "50Gi", "medium": "Memory"}},
        {"emptyDir": {}},
    ],
)
def test_the_cache_is_mounted_where_weights_are_read(tmp_path, source):
    found = services(tmp_path, {"cache": source})
    for stage in ("ingest", "generate"):
        spec = pod(found[stage])
        assert spec["volumes"] == [{"name": "pilotlight-cache", **source}]
        (mount,) = spec["containers"][0]["volumeMounts"]
        assert mount == {"name": "pilotlight-cache", "mountPath": env(found[stage])["PILOTLIGHT_CACHE_DIR"]}
    for stage in ("postprocess", "orchestrate"):
        assert "volumes" not in pod(found[stage])
        assert "PILOTLIGHT_CACHE_DIR" not in env(found[stage])


def test_the_quota_of_the_cache_is_known_in_bytes_where_weights_are_read(tmp_path):
    found = services(tmp_path, {"cache": {**CLAIM, "quota": "200Gi"}})
    assert env(found["generate"])["PILOTLIGHT_CACHE_QUOTA"] == str(200 << 30)
    assert env(found["ingest"])["PILOTLIGHT_CACHE_QUOTA"] == str(200 << 30)
    assert "PILOTLIGHT_CACHE_QUOTA" not in env(found["orchestrate"])


def test_a_stage_has_another_cache_or_none(tmp_path):
    other = {"persistentVolumeClaim": {"claimName": "nvme"}, "mountPath": "/cache"}
    found = services(tmp_path, {"cache": CLAIM}, cache=other)
    assert pod(found["generate"])["volumes"] == [
        {"name": "pilotlight-cache", "persistentVolumeClaim": {"claimName": "nvme"}}
    ]
    assert env(found["generate"])["PILOTLIGHT_CACHE_DIR"] == "/cache"
    found = services(tmp_path, {"cache": CLAIM}, cache={"enabled": False})
    assert "volumes" not in pod(found["generate"])
    assert "volumes" in pod(found["ingest"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodeSelector", {"gpu": "l4"}),
        ("affinity", AFFINITY),
        ("tolerations", TOLERATIONS),
        ("topologySpreadConstraints", SPREAD),
        ("priorityClassName", "high"),
        ("runtimeClassName", "nvidia"),
        ("serviceAccountName", "reads-s3"),
        ("imagePullSecrets", [{"name": "registry"}]),
    ],
)
def test_settings_of_the_pod_are_passed_through_agent_wide_or_for_a_stage(tmp_path, field, value):
    found = services(tmp_path, {field: value})
    assert [pod(service)[field] for service in found.values()] == [value] * 4
    found = services(tmp_path, {}, **{field: value})
    assert {stage: pod(service).get(field) for stage, service in found.items()} == {
        "ingest": None,
        "generate": value,
        "postprocess": None,
        "orchestrate": None,
    }


def test_an_empty_value_in_a_stage_takes_the_agents_back(tmp_path):
    found = services(tmp_path, {"nodeSelector": {"gpu": "l4"}}, nodeSelector={})
    assert "nodeSelector" not in pod(found["generate"])
    assert pod(found["ingest"])["nodeSelector"] == {"gpu": "l4"}


def test_stages_of_the_projects_image_are_restricted_and_have_no_token(tmp_path):
    for service in services(tmp_path, {}).values():
        spec = pod(service)
        assert spec["automountServiceAccountToken"] is False
        assert spec["containers"][0]["securityContext"] == {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert spec["containers"][0]["livenessProbe"]["httpGet"] == {"path": "/healthz/live"}
    spec = pod(services(tmp_path, {"serviceAccountName": "a"}, securityContext={"runAsUser": 7})["generate"])
    assert "automountServiceAccountToken" not in spec
    assert spec["containers"][0]["securityContext"]["runAsUser"] == 7
    assert spec["containers"][0]["securityContext"]["runAsNonRoot"] is True


def test_a_stage_with_snapshots_has_what_criu_needs_and_the_others_have_not(tmp_path):
    found = services(tmp_path, {}, snapshot=True)
    container = pod(found["generate"])["containers"][0]
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": True,
        "capabilities": {"drop": ["ALL"], "add": ["CHECKPOINT_RESTORE", "SETPCAP"]},
        "seccompProfile": {"type": "Unconfined"},
    }
    assert {"name": "PILOTLIGHT_SNAPSHOT", "value": "true"} in container["env"]
    other = pod(found["ingest"])["containers"][0]
    assert other["securityContext"]["allowPrivilegeEscalation"] is False
    assert all(variable["name"] != "PILOTLIGHT_SNAPSHOT" for variable in other["env"])


@pytest.mark.parametrize(
    ("workers", "said", "volume"),
    [
        (1, None, None),
        (2, None, {"medium": "Memory"}),
        (2, {"enabled": False}, None),
        (1, {"sizeLimit": "8Gi"}, {"medium": "Memory", "sizeLimit": "8Gi"}),
    ],
)
def test_shared_memory_is_there_for_tensor_parallelism_or_where_the_file_says_so(
    tmp_path, workers, said, volume
):
    generate: dict[str, Any] = {
        "engine": {"type": "onnx", "args": {"tensor-parallel-size": workers}},
        "resources": {"limits": {"nvidia.com/gpu": 2}},
    }
    spec = pod(services(tmp_path, {}, **generate, **({"sharedMemory": said} if said else {}))["generate"])
    assert [item["emptyDir"] for item in spec.get("volumes", ())] == ([volume] if volume else [])
    mounts = [mount["mountPath"] for mount in spec["containers"][0].get("volumeMounts", ())]
    assert mounts == (["/dev/shm"] if volume else [])


def test_only_the_entry_and_public_stages_are_reachable_from_outside(tmp_path):
    found = services(tmp_path, {})
    assert {stage: s["metadata"]["labels"].get(VISIBILITY) for stage, s in found.items()} == {
        "ingest": "cluster-local",
        "generate": "cluster-local",
        "postprocess": "cluster-local",
        "orchestrate": None,
    }
    found = services(tmp_path, {}, public=True)
    assert VISIBILITY not in found["generate"]["metadata"]["labels"]


def test_annotations_and_labels_are_on_service_and_template(tmp_path):
    said = {"labels": {"team": "support"}, "annotations": {"example.com/cost-centre": "42"}}
    service = services(tmp_path, said, labels={"tier": "gpu"})["generate"]
    for meta in (service["metadata"], service["spec"]["template"]["metadata"]):
        assert {"team": "support", "tier": "gpu"}.items() <= meta["labels"].items()
        assert meta["annotations"]["example.com/cost-centre"] == "42"


def test_a_volume_is_in_the_pods_that_mount_it(tmp_path):
    volume = {"name": "ca", "configMap": {"name": "ca-bundle"}}
    mount = {"name": "ca", "mountPath": "/etc/ca", "readOnly": True}
    found = services(tmp_path, {"volumes": [volume]}, volumeMounts=[mount])
    assert pod(found["generate"])["volumes"] == [volume]
    assert pod(found["generate"])["containers"][0]["volumeMounts"] == [mount]
    assert "volumes" not in pod(found["ingest"])


@pytest.mark.parametrize(
    ("spec", "generate", "expected"),
    [
        ({"cache": {}}, {}, "spec.cache: must have exactly one of persistentVolumeClaim, emptyDir"),
        ({"cache": {**CLAIM, "emptyDir": {}}}, {}, "spec.cache: must have exactly one of"),
        (
            {"cache": {"persistentVolumeClaim": {}}},
            {},
            "spec.cache.persistentVolumeClaim.claimName: is missing",
        ),
        (
            {"cache": {"hostPath": {"path": "/mnt/nvme"}}},
            {},
            "spec.cache: must not have hostPath, which Knative mounts read-only",
        ),
        (
            {"cache": {**CLAIM, "mountPath": "/tmp"}},
            {},
            'spec.cache.mountPath = "/tmp": must not be one of /,',
        ),
        (
            {"cache": {"emptyDir": {"sizeLimit": "much"}}},
            {},
            'sizeLimit = "much": must be a Kubernetes quantity',
        ),
        ({"cache": {**CLAIM, "quota": "0"}}, {}, "spec.cache: quota (0) must be above 0, such as 200Gi"),
        ({"tolerations": [{"effect": "NoSchedule"}]}, {}, "spec.tolerations.0: key is required unless"),
        (
            {"tolerations": [{"key": "a", "effect": "Never"}]},
            {},
            "spec.tolerations.0.effect = \"Never\": Input should be 'NoSchedule'",
        ),
        (
            {"podSecurityContext": {"fsGroupChangePolicy": "Always"}},
            {},
            "spec.podSecurityContext: must have only fsGroup, runAsGroup,",
        ),
        ({"affinity": {"nodes": {}}}, {}, "spec.affinity: must have only nodeAffinity, podAffinity"),
        (
            {"annotations": {"autoscaling.knative.dev/min-scale": "1"}},
            {},
            "write scaling, progressDeadline or",
        ),
        (
            {},
            {"volumeMounts": [{"name": "x", "mountPath": "/x"}]},
            "volumeMounts of stage generate: 'x' is not",
        ),
        ({"volumes": [{"name": "x"}]}, {}, "spec.volumes.0: must have exactly one of"),
        (
            {},
            {"engine": {"type": "onnx", "args": {"tensor-parallel-size": 4}}},
            "pipeline-parallel-size (4) must be at most resources.limits.nvidia.com/gpu (1)",
        ),
    ],
)
def test_refusals_name_line_field_and_what_is_right(tmp_path, spec, generate, expected):
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(example(spec, generate)))
    with pytest.raises(AgentFileError) as caught:
        load_agent(path)
    (line,) = str(caught.value).splitlines()
    assert expected in line
    assert line.removeprefix(f"{path}:").split(":")[0].isdigit()
