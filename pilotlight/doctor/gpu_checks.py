"""Checks of GPU nodes: devices by type, free and taken, and whether each stage finds one (pure)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pilotlight.doctor.cluster_facts import ClusterFacts, Node
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown
from pilotlight.doctor.needs import StageNeeds
from pilotlight.gpu_settings import GKE_LABEL, PRODUCT_LABEL
from pilotlight.node_placement import label_misfit, taint_text, tolerates, untolerated

_PASSING = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/", "karpenter.sh/")
"""Beginnings of keys of taints by which a node says that it is not ready, being started, or drained."""
_TYPE_LABELS = (
    PRODUCT_LABEL,
    GKE_LABEL,
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
)


def gpus(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Everything about GPUs."""
    wanting = [need for need in needs if need.gpus]
    if facts.local:
        if wanting:
            yield ok(
                "gpus", "one machine: `pilotlight up --gpus N` says how many, and placement has no effect"
            )
        return
    if isinstance(facts.nodes, Unknown):
        if wanting:
            yield unknown("gpus", "nodes", facts.nodes)
        return
    yield from _inventory(facts.nodes, needs)
    for need in wanting:
        for resource, count in need.gpus.items():
            yield _place(facts, facts.nodes, need, resource, count)
    yield from _useless_tolerations(facts, facts.nodes, needs)


def _inventory(nodes: Sequence[Node], needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """GPUs by type, and the taints that no stage tolerates."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in nodes:
        for resource, count in node.gpus.items():
            if count:
                groups.setdefault((_type(node), resource), []).append(node)
    tolerations = [item for need in needs for item in need.spec.get("tolerations") or ()]
    for (kind, resource), members in sorted(groups.items()):
        total = sum(node.gpus[resource] for node in members)
        taints = _lasting(members, tolerations)
        tainted = f"; taints that no stage tolerates: {', '.join(taints)}" if taints else ""
        nodes_ = "1 node" if len(members) == 1 else f"{len(members)} nodes"
        yield ok("gpus", f"{kind}: {nodes_}, {total} {resource}, {_free(members, resource)}{tainted}")


def _type(node: Node) -> str:
    return next((node.labels[label] for label in _TYPE_LABELS if label in node.labels), "unlabelled GPU")


def _free(nodes: Sequence[Node], resource: str) -> str:
    if any(node.taken is None for node in nodes):
        return "taken: unknown"
    taken = sum((node.taken or {}).get(resource, 0) for node in nodes)
    return f"{taken} taken, {sum(node.gpus[resource] for node in nodes) - taken} free"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _place(
    facts: ClusterFacts, nodes: Sequence[Node], need: StageNeeds, resource: str, count: int
) -> Finding:
    """Whether one replica of a stage finds a node."""
    wants = f"{need.service} wants {count} {resource} on one node"

    def problem(level: Level, text: str, fix: str) -> Finding:
        return Finding(level, "gpus", f"{wants}: {text}", fix, need.gpu_field, need.agent)

    having = [node for node in nodes if node.gpus.get(resource)]
    selected = [node for node in having if label_misfit(node.name, node.labels, need.spec) is None]
    if not selected:
        kinds = ", ".join(sorted({_type(node) for node in having})) or "none"
        why = (
            f"no node with {resource} has the labels it asks for ({_labels(need.spec)}; GPUs there: {kinds})"
        )
        if facts.provisioners:
            added = ", ".join(facts.provisioners)
            return problem(Level.WARNING, f"{why}, but {added} may add one", "see that its node pools do")
        return problem(Level.ERROR, why, "change gpu.type, or add such nodes (and NVIDIA's GPU operator)")
    tolerations = need.spec.get("tolerations") or ()
    reachable = [node for node in selected if not _lasting([node], tolerations)]
    taints = _lasting(selected, tolerations)
    if not reachable:
        return problem(
            Level.ERROR,
            f"every such node has a taint that it does not tolerate ({', '.join(taints)})",
            _toleration(taints[0]),
        )
    largest = max(node.gpus[resource] for node in reachable)
    if largest < count:
        return problem(
            Level.WARNING if facts.provisioners else Level.ERROR,
            f"the largest such node has {largest}",
            f"a count of at most {largest}, or larger nodes",
        )
    if taints:
        away = _names([node.name for node in selected if node not in reachable])
        return problem(
            Level.WARNING,
            f"{away} would do, but for a taint that it does not tolerate ({', '.join(taints)})",
            _toleration(taints[0]),
        )
    return _room(need, reachable, resource, count) or ok(
        "gpus", f"{wants}: {_names([node.name for node in reachable])}"
    )


def _lasting(nodes: Iterable[Node], tolerations: Iterable[Mapping[str, Any]]) -> list[str]:
    """The taints that keep pods with these tolerations away, without those of a state that passes."""
    known = list(tolerations)
    return sorted(
        {
            taint_text(taint)
            for node in nodes
            for taint in untolerated(node.taints, known)
            if not str(taint.get("key")).startswith(_PASSING)
        }
    )


def _room(need: StageNeeds, nodes: Sequence[Node], resource: str, count: int) -> Finding | None:
    """A warning where less is free than the warm pool is to hold."""
    open_ = [node for node in nodes if node.schedulable]
    if any(node.taken is None for node in open_):
        return None
    fitting = sum((node.gpus[resource] - (node.taken or {}).get(resource, 0)) // count for node in open_)
    wanted = max(need.floor, 1)
    if fitting >= wanted:
        return None
    return Finding(
        Level.WARNING,
        "gpus",
        f"{need.service}: {fitting} replicas of {count} {resource} find a free node now, "
        f"and the floor is {need.floor}",
        "free GPUs, or lower the replicas of its warm pool",
        need.gpu_field,
        need.agent,
    )


def _toleration(taint: str) -> str:
    """What the agent file says for a taint as `taint_text` writes it."""
    key = taint.partition(":")[0].partition("=")[0]
    return f"tolerations: [{{key: {key}, operator: Exists}}]"


def _labels(spec: Mapping[str, Any]) -> str:
    selector = ", ".join(f"{key}={value}" for key, value in (spec.get("nodeSelector") or {}).items())
    return selector or ("its affinity" if spec.get("affinity") else "none")


def _useless_tolerations(
    facts: ClusterFacts, nodes: Sequence[Node], needs: Sequence[StageNeeds]
) -> Iterator[Finding]:
    """Tolerations of the file that meet no taint: a misspelt key keeps pods away from their nodes."""
    if facts.provisioners:
        return
    taints = [taint for node in nodes for taint in node.taints]
    seen = set()
    for need in needs:
        field = need.field("tolerations")
        for item in need.spec.get("tolerations") or ():
            if item == {"key": "nvidia.com/gpu", "operator": "Exists"} or not item.get("key"):
                continue
            if any(tolerates(item, taint) for taint in taints) or (field, str(item)) in seen:
                continue
            seen.add((field, str(item)))
            there = ", ".join(sorted({taint_text(taint) for taint in taints})) or "none"
            yield Finding(
                Level.WARNING,
                "gpus",
                f"the toleration of {taint_text({**item, 'effect': item.get('effect', '*')})} meets no taint "
                f"(taints there: {there})",
                "correct its key and value, or leave it out",
                field,
                need.agent,
            )
