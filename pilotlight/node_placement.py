"""Which nodes a pod may be scheduled to, by their labels, taints and state (pure).

The part of kube-scheduler's filters that a pod without resource requests meets: NodeName, NodeAffinity,
TaintToleration, NodeUnschedulable (k8s.io/kubernetes/pkg/scheduler/framework/plugins).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BLOCKING = ("NoSchedule", "NoExecute")
_UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def misfit(node: Mapping[str, Any], pod: Mapping[str, Any]) -> str | None:
    """Why a pod may not run on a node, None if it may.

    Args:
        node: a Node.
        pod: a pod's spec.
    """
    meta = node["metadata"]
    reason = label_misfit(meta["name"], meta.get("labels") or {}, pod)
    if reason is not None:
        return reason
    taints = list(node.get("spec", {}).get("taints") or ())
    if node.get("spec", {}).get("unschedulable"):
        taints.append(_UNSCHEDULABLE)
    for taint in untolerated(taints, pod.get("tolerations") or ()):
        return f"has the taint {taint['key']}, which is not tolerated"
    for condition in node.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            return "is not ready"
    return None


def label_misfit(name: str, labels: Mapping[str, str], pod: Mapping[str, Any]) -> str | None:
    """Why the labels and the name of a node keep a pod away, None if they do not."""
    for key, value in (pod.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return f"has not the label {key}={value}"
    affinity = ((pod.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if affinity is not None and not any(
        _term_matches(term, name, labels) for term in affinity.get("nodeSelectorTerms") or ()
    ):
        return "is not one that the affinity names"
    return None


def untolerated(
    taints: Iterable[Mapping[str, Any]], tolerations: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The taints that keep a pod with these tolerations away."""
    known = list(tolerations)
    return [
        taint
        for taint in taints
        if taint.get("effect") in _BLOCKING and not any(tolerates(item, taint) for item in known)
    ]


def taint_text(taint: Mapping[str, Any]) -> str:
    """A taint as `kubectl taint` writes it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"


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


def _term_matches(term: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    """Whether all requirements of a term hold; a term without any matches nothing."""
    fields = {"metadata.name": name}
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
