"""The local platform takes what an agent file is compiled to, with the flags that a cluster needs as well."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from knative.client.errors import Invalid
from knative.client.resources import CONFIG_MAP, SERVICE
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from tests.knative.platform.conftest import LocalCluster

EXAMPLE = Path(__file__).parents[3] / "examples" / "support" / "agent.yaml"
CLUSTER: dict[str, Any] = {
    "cache": {"persistentVolumeClaim": {"claimName": "weights"}},
    "sharedMemory": {"sizeLimit": "8Gi"},
    "nodeSelector": {"gpu": "l4"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "serviceAccountName": "reads-s3",
    "imagePullSecrets": [{"name": "registry"}],
    "podSecurityContext": {"fsGroup": 10001},
    "labels": {"team": "support"},
    "annotations": {"example.com/cost-centre": "42"},
}
FLAGS = (
    "affinity",
    "nodeselector",
    "persistent-volume-claim",
    "persistent-volume-write",
    "priorityclassname",
    "runtimeclassname",
    "securitycontext",
    "tolerations",
    "topologyspreadconstraints",
)


def compiled(tmp_path: Path, spec: dict[str, Any]) -> list[dict[str, Any]]:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"] |= spec
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return [obj for obj in compile_agent(load_agent(path)) if obj["kind"] == "Service"]


async def dry_run(local: LocalCluster, objects: list[dict[str, Any]]) -> None:
    for obj in objects:
        await local.cluster.apply(SERVICE, obj, field_manager="test", force=True, dry_run=True)


async def test_the_example_needs_no_flag(local: LocalCluster, tmp_path):
    await dry_run(local, compiled(tmp_path, {}))


async def test_settings_of_pods_need_the_flags_of_the_guide(local: LocalCluster, tmp_path):
    objects = compiled(tmp_path, CLUSTER)
    with pytest.raises(Invalid):
        await dry_run(local, objects)
    meta = {"name": "config-features", "namespace": "knative-serving"}
    flags = {f"kubernetes.podspec-{flag}": "enabled" for flag in FLAGS}
    await local.cluster.apply(CONFIG_MAP, {"metadata": meta, "data": flags})
    await dry_run(local, objects)
