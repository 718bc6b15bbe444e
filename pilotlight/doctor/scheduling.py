"""Whether a pod may run on a node, by the rules of Kubernetes' scheduler (pure).

nodeSelector, required node affinity, taints and tolerations:
https://kubernetes.io/docs/concepts/scheduling-eviction/
"""

from collections.abc import Iterable, Mapping
from typing import Any

from knative.literals import parse_integer
from pilotlight.doctor.cluster_facts import Node

_REPELLING = frozenset({"NoSchedule", "NoExecute"})


def is_selected(node: Node, spec: Mapping[str, Any]) -> bool:
    """Whether the node has the labels that the pod wants."""
    wanted = spec.get("nodeSelector") or {}
    if any(node.labels.get(key) != value for key, value in wanted.items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    terms = (required or {}).get("nodeSelectorTerms") or []
    return not terms or any(
        all(_matches(node.labels, expression) for expression in term.get("matchExpressions") or ())
        for term in terms
    )


def _matches(labels: Mapping[str, str], expression: Mapping[str, Any]) -> bool:  # noqa: PLR0911  # one for each operator
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            have, bound = parse_integer(value or ""), parse_integer(str(values[0])) if values else None
            if have is None or bound is None:
                return False
            return have > bound if operator == "Gt" else have < bound
    return False


def repelling(node: Node, tolerations: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The node's taints that keep the pod away."""
    known = list(tolerations)
    return [
        taint
        for taint in node.taints
        if taint.get("effect") in _REPELLING and not any(tolerates(item, taint) for item in known)
    ]


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether a toleration meets a taint."""
    if toleration.get("effect") not in {None, "", taint.get("effect")}:
        return False
    key, operator = toleration.get("key"), toleration.get("operator") or "Equal"
    if key and key != taint.get("key"):
        return False
    if operator == "Exists":
        return True
    return operator == "Equal" and (toleration.get("value") or "") == (taint.get("value") or "")


def taint_text(taint: Mapping[str, Any]) -> str:
    """A taint as `kubectl taint` writes it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"
