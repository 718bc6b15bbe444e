"""Which nodes a pod may be scheduled to, and what is said of the others."""

from typing import Any

import pytest

from pilotlight.node_placement import misfit, tolerates

L4 = {"nvidia.com/gpu.product": "NVIDIA-L4", "cores": "8"}
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def node(**spec: Any) -> dict[str, Any]:
    ready = spec.pop("ready", "True")
    return {
        "metadata": {"name": "gpu-1", "labels": L4},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": rule}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("there", "pod", "expected"),
    [
        (node(), {}, None),
        (node(), {"nodeSelector": {"cores": "8"}}, None),
        (node(), {"nodeSelector": {"zone": "a"}}, "has not the label zone=a"),
        (node(taints=[TAINT]), {}, "has the taint nvidia.com/gpu, which is not tolerated"),
        (node(taints=[TAINT]), {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}, None),
        (node(taints=[TAINT | {"effect": "PreferNoSchedule"}]), {}, None),
        (node(unschedulable=True), {}, "has the taint node.kubernetes.io/unschedulable, which is not tolerated"),
        (node(ready="Unknown"), {}, "is not ready"),
        (node(), required(expression("cores", "In", "4", "8")), None),
        (node(), required(expression("cores", "In", "4"), expression("cores", "Gt", "7")), None),
        (node(), required(expression("cores", "Lt", "8")), "is not one that the affinity names"),
        (node(), required(expression("cores", "Gt", "many")), "is not one that the affinity names"),
        (node(), required(expression("zone", "NotIn", "a")), None),
        (node(), required(expression("zone", "DoesNotExist")), None),
        (node(), required(expression("zone", "Exists")), "is not one that the affinity names"),
        (node(), required({}), "is not one that the affinity names"),
        (
            node(),
            required({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}]}),
            None,
        ),
    ],
)  # fmt: skip
def test_a_node_fits_or_is_told_why_not(there, pod, expected):
    assert misfit(there, pod) == expected


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "nvidia.com/gpu", "value": "present"}, True),
        ({"key": "nvidia.com/gpu"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations_as_kubernetes_reads_them(toleration, expected):
    assert tolerates(toleration, TAINT) is expected
