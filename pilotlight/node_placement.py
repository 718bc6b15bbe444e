"""Which nodes a pod may be scheduled to, by their labels, taints and state (pure).

The part of kube-scheduler's filters that a pod without resource requests meets: NodeName, NodeAffinity,
TaintToleration, NodeUnschedulable (k8s.io/kubernetes/pkg/scheduler/framework/plugins).
"""

from collections.abc import Mapping, Sequence
from typing import Any

_BLOCKING = ("NoSchedule", "NoExecute")
_UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def misfit(node: Mapping[str, Any], pod: Mapping[str, Any]) -> str | None:
    """Why a pod may not run on a node, None if it may.

    Args:
        node: a Node.
        pod: a pod's spec.
    """
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"has not the label {key}={value}"
    affinity = ((pod.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if affinity is not None and not any(
        _term_matches(term, node) for term in affinity.get("nodeSelectorTerms") or ()
    ):
        return "is not one that the affinity names"
    taints = list(node.get("spec", {}).get("taints") or ())
    if node.get("spec", {}).get("unschedulable"):
        taints.append(_UNSCHEDULABLE)
    for taint in taints:
        if taint.get("effect") in _BLOCKING and not any(
            tolerates(toleration, taint) for toleration in pod.get("tolerations") or ()
        ):
            return f"has the taint {taint['key']}, which is not tolerated"
    for condition in node.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            return "is not ready"
    return None


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether a toleration is for a taint (k8s.io/api/core/v1, `Toleration.ToleratesTaint`)."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    if operator == "Equal":
        return (toleration.get("value") or "") == (taint.get("value") or "")
    return _compares(taint.get("value"), operator, toleration.get("value"))


def _term_matches(term: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether all requirements of a term hold; a term without any matches nothing."""
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    requirements = [(labels, item) for item in term.get("matchExpressions") or ()]
    requirements += [(fields, item) for item in term.get("matchFields") or ()]
    return bool(requirements) and all(_holds(values, item) for values, item in requirements)


def _holds(values: Mapping[str, str], requirement: Mapping[str, Any]) -> bool:
    key, operator = requirement["key"], requirement["operator"]
    wanted: Sequence[str] = requirement.get("values") or ()
    if operator == "Exists":
        return key in values
    if operator == "DoesNotExist":
        return key not in values
    if operator == "NotIn":
        return values.get(key) not in wanted
    if operator == "In":
        return values.get(key) in wanted
    return len(wanted) == 1 and _compares(values.get(key), operator, wanted[0])


def _compares(value: str | None, operator: str, bound: str | None) -> bool:
    """`Gt` and `Lt` of two integers; False for what is none."""
    try:
        left, right = int(value or ""), int(bound or "")
    except ValueError:
        return False
    return left > right if operator == "Gt" else left < right
