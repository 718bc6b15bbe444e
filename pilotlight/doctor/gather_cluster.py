"""Reads the facts of a cluster. Each reading stands for itself: one that fails is unknown, and says why."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from knative import feature_flags
from knative.client.cluster import Cluster
from knative.client.errors import ClusterError, NotFound
from knative.client.resources import CONFIG_MAP, NAMESPACE, NODE, POD, SECRET, WARM_POOL, Object, Resource
from knative.literals import parse_duration
from pilotlight.doctor.addon_checks import CONTROLLER, CONTROLLER_NAMESPACE
from pilotlight.doctor.cluster_facts import Claim, ClusterFacts, Node, Reference, Right, StorageClass
from pilotlight.doctor.findings import Unknown
from pilotlight.doctor.needs import StageNeeds, is_gpu, references
from pilotlight.doctor.serving_checks import SERVING_NAMESPACE

T = TypeVar("T")

ACCESS_REVIEW = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
CLAIM = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
STORAGE_CLASS = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
_REFERENCED = {
    "Namespace": NAMESPACE,
    "Secret": SECRET,
    "ConfigMap": CONFIG_MAP,
    "ServiceAccount": Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    "PriorityClass": Resource(
        "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False
    ),
    "RuntimeClass": Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False),
}
_LOCAL_KINDS = frozenset({"Namespace", "Secret", "ConfigMap"})
"""Of the objects that pods name, what the local platform has."""
_LONGEST_READING_S = 20.0


async def gather(cluster: Cluster, needs: Sequence[StageNeeds], rights: Sequence[Right]) -> ClusterFacts:
    """The facts that the checks of these stages need, and which of these actions are permitted."""
    version = await _read(cluster.version)
    if isinstance(version, Unknown):
        return ClusterFacts(cluster.server, version)
    git = str(version.get("gitVersion"))
    local = "pilotlight" in git
    actions = [] if local else rights
    named = sorted({reference for need in needs for reference, _ in references(need)})
    named = [item for item in named if not local or item.kind in _LOCAL_KINDS]
    claims = [] if local else sorted({(need.namespace, name) for need in needs for name in need.claims})
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(_read(lambda: _serving_version(cluster)))
        features = group.create_task(_read(lambda: _data(cluster, feature_flags.CONFIG_MAP_NAME)))
        defaults = group.create_task(_read(lambda: _data(cluster, "config-defaults")))
        autoscaling = group.create_task(_read(lambda: _data(cluster, "config-autoscaler")))
        network = group.create_task(_read(lambda: _data(cluster, "config-network")))
        groups = group.create_task(_read(cluster.groups))
        starts = group.create_task(_read(lambda: _cold_starts(cluster, {need.namespace for need in needs})))
        permitted = group.create_task(_each(actions, lambda right: _may(cluster, right)))
        found_claims = group.create_task(_each(claims, lambda key: _claim(cluster, *key)))
        references_ = group.create_task(_each(named, lambda reference: _exists(cluster, reference)))
        controllers = None if local else group.create_task(_read(lambda: _controllers(cluster)))
        nodes = None if local else group.create_task(_read(lambda: _nodes(cluster)))
        autoscaler = None if local else group.create_task(_read(lambda: _has_autoscaler(cluster)))
        classes = group.create_task(_read(lambda: _storage_classes(cluster))) if claims else None
    found_nodes = () if nodes is None else nodes.result()
    return ClusterFacts(
        server=cluster.server,
        version=git,
        local=local,
        rights=permitted.result(),
        serving=serving.result(),
        features=features.result(),
        defaults=defaults.result(),
        autoscaling=autoscaling.result(),
        network=network.result(),
        groups=groups.result(),
        controllers=None if controllers is None else controllers.result(),
        nodes=found_nodes,
        provisioners=_provisioners(
            groups.result(), found_nodes, autoscaler=autoscaler is not None and autoscaler.result() is True
        ),
        claims=found_claims.result(),
        storage_classes=() if classes is None else classes.result(),
        references=references_.result(),
        cold_starts=starts.result(),
    )


async def _read(reading: Callable[[], Awaitable[T]]) -> T | Unknown:
    try:
        return await asyncio.wait_for(reading(), _LONGEST_READING_S)
    except ClusterError as error:
        return Unknown(str(error))
    except TimeoutError:
        return Unknown(f"there was no answer within {_LONGEST_READING_S:g} s")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Unknown(f"the answer cannot be understood: {error!r}")


async def _each(keys: Iterable[Any], read: Callable[[Any], Awaitable[T]]) -> Mapping[Any, T | Unknown]:
    listed = list(keys)
    values = await asyncio.gather(*(_read(lambda key=key: read(key)) for key in listed))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return dict(zip(listed, values, strict=True))


async def _serving_version(cluster: Cluster) -> str | None:
    """By the label of Knative's namespace; None where there is no such namespace."""
    try:
        namespace = await cluster.get(NAMESPACE, SERVING_NAMESPACE)
    except NotFound:
        return None
    return str((namespace["metadata"].get("labels") or {}).get("app.kubernetes.io/version", "unlabelled"))


async def _data(cluster: Cluster, name: str) -> Mapping[str, str]:
    try:
        return dict((await cluster.get(CONFIG_MAP, name, SERVING_NAMESPACE)).get("data") or {})
    except NotFound:
        return {}


async def _may(cluster: Cluster, right: Right) -> bool:
    attributes = {"verb": right.verb, "group": right.group, "resource": right.resource}
    if right.namespace:
        attributes["namespace"] = right.namespace
    answer = await cluster.create(ACCESS_REVIEW, {"metadata": {}, "spec": {"resourceAttributes": attributes}})
    return bool(answer["status"]["allowed"])


async def _nodes(cluster: Cluster) -> tuple[Node, ...]:
    listed, taken = await asyncio.gather(cluster.list(NODE), _read(lambda: _taken(cluster)))
    return tuple(_node(obj, None if isinstance(taken, Unknown) else taken) for obj in listed)


def _node(obj: Object, taken: Mapping[str, Mapping[str, int]] | None) -> Node:
    name, spec, status = obj["metadata"]["name"], obj.get("spec") or {}, obj.get("status") or {}
    ready = any(
        item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or ()
    )
    allocatable = status.get("allocatable") or {}
    return Node(
        name=name,
        labels=obj["metadata"].get("labels") or {},
        taints=tuple(spec.get("taints") or ()),
        gpus={key: int(value) for key, value in allocatable.items() if is_gpu(key)},
        taken=None if taken is None else taken.get(name, {}),
        schedulable=ready and not spec.get("unschedulable", False),
    )


async def _taken(cluster: Cluster) -> Mapping[str, Mapping[str, int]]:
    """Devices that pods hold, by node and resource."""
    found: dict[str, dict[str, int]] = {}
    running = "status.phase!=Succeeded,status.phase!=Failed"
    async for page, _ in cluster.pages(POD, field_selector=running):
        for pod in page:
            spec = pod.get("spec") or {}
            if not spec.get("nodeName"):
                continue
            devices = found.setdefault(spec["nodeName"], {})
            for container in spec.get("containers") or ():
                for key, value in ((container.get("resources") or {}).get("limits") or {}).items():
                    if is_gpu(key):
                        devices[key] = devices.get(key, 0) + int(value)
    return found


async def _has_autoscaler(cluster: Cluster) -> bool:
    """Whether the Kubernetes cluster autoscaler writes its status here."""
    try:
        await cluster.get(CONFIG_MAP, "cluster-autoscaler-status", "kube-system")
    except NotFound:
        return False
    return True


def _provisioners(
    groups: frozenset[str] | Unknown, nodes: Sequence[Node] | Unknown, *, autoscaler: bool
) -> tuple[str, ...]:
    found = []
    if not isinstance(groups, Unknown) and "karpenter.sh" in groups:
        found.append("Karpenter")
    if not isinstance(nodes, Unknown) and any("cloud.google.com/gke-nodepool" in n.labels for n in nodes):
        found.append("GKE")
    if autoscaler:
        found.append("the cluster autoscaler")
    return tuple(found)


async def _controllers(cluster: Cluster) -> int | None:
    try:
        found = await cluster.get(DEPLOYMENT, CONTROLLER, CONTROLLER_NAMESPACE)
    except NotFound:
        return None
    return int((found.get("status") or {}).get("readyReplicas") or 0)


async def _storage_classes(cluster: Cluster) -> tuple[StorageClass, ...]:
    return tuple(
        StorageClass(obj["metadata"]["name"], obj["provisioner"]) for obj in await cluster.list(STORAGE_CLASS)
    )


async def _claim(cluster: Cluster, namespace: str, name: str) -> Claim | None:
    try:
        obj = await cluster.get(CLAIM, name, namespace)
    except NotFound:
        return None
    spec, status = obj["spec"], obj.get("status") or {}
    modes = status.get("accessModes") or spec.get("accessModes") or ()
    return Claim(tuple(modes), spec.get("storageClassName"), str(status.get("phase")))


async def _exists(cluster: Cluster, reference: Reference) -> bool:
    try:
        await cluster.get(_REFERENCED[reference.kind], reference.name, reference.namespace or None)
    except NotFound:
        return False
    return True


async def _cold_starts(cluster: Cluster, namespaces: Iterable[str]) -> Mapping[tuple[str, str], float]:
    """The p95 that warm pools have measured, in seconds by namespace and Service."""
    found: dict[tuple[str, str], float] = {}
    for namespace in namespaces:
        try:
            pools = await cluster.list(WARM_POOL, namespace)
        except NotFound:
            continue
        for pool in pools:
            measured = ((pool.get("status") or {}).get("coldStart") or {}).get("p95")
            seconds = None if measured is None else parse_duration(measured)
            if seconds is not None:
                found[(namespace, str(pool["spec"]["target"]))] = float(seconds)
    return found
