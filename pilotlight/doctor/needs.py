"""What an agent needs of a cluster, read from the objects that it compiles to (pure)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from knative.labels import PROGRESS_DEADLINE_ANNOTATION
from knative.literals import parse_duration
from pilotlight.agent import Agent, Kind
from pilotlight.agent_values import AgentModel
from pilotlight.compile import compile_agent
from pilotlight.doctor.cluster_facts import Reference, Right
from pilotlight.doctor.findings import Location
from warmpool.domain.pool import WarmPoolTemplate

_GPU_PREFIXES = ("nvidia.com/gpu", "nvidia.com/mig-", "amd.com/gpu")
_DEFAULT_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class StageNeeds:
    """One stage: the spec of its Revision, and where its fields stand in the agent file.

    Attributes:
        agent: index of its agent among those that are checked.
        index: of the stage in its agent.
        kind: of the stage.
        namespace: of its Service.
        service: name of its Service.
        spec: of its Revision.
        settings: fields that the stage sets itself, as the agent file calls them.
        most: replicas at most; None: no limit.
        floor: replicas that its warm pool holds at most.
        progress_deadline_s: how long its first replicas may take to become ready.
    """

    agent: int
    index: int
    kind: Kind
    namespace: str
    service: str
    spec: Mapping[str, Any]
    settings: frozenset[str]
    most: int | None
    floor: int
    progress_deadline_s: float

    def field(self, name: str) -> Location:
        """Where a setting stands: in the stage, or in `spec` for all."""
        return ("spec", "stages", self.index, name) if name in self.settings else ("spec", name)

    def own_field(self, name: str) -> Location:
        """Where a setting that only stages have stands."""
        return ("spec", "stages", self.index, name)

    @property
    def gpus(self) -> dict[str, int]:
        """Devices of one replica, by the name of their resource."""
        found: dict[str, int] = {}
        for container in self.spec.get("containers") or ():
            for name, amount in ((container.get("resources") or {}).get("limits") or {}).items():
                if is_gpu(name):
                    found[name] = found.get(name, 0) + int(amount)
        return {name: count for name, count in found.items() if count}

    @property
    def claims(self) -> dict[str, bool]:
        """Names of the claims that it mounts, and whether it writes to them."""
        found: dict[str, bool] = {}
        for volume in self.spec.get("volumes") or ():
            if (claim := volume.get("persistentVolumeClaim")) is not None:
                found[claim["claimName"]] = not claim.get("readOnly", False)
        return found


def is_gpu(resource: str) -> bool:
    """Whether an extended resource is a GPU, or a part of one."""
    return resource.startswith(_GPU_PREFIXES)


def stages(agents: Iterable[Agent]) -> list[StageNeeds]:
    """Every stage of the agents."""
    return [need for position, agent in enumerate(agents) for need in _of(position, agent)]


def _of(position: int, agent: Agent) -> Iterator[StageNeeds]:
    services = [obj for obj in compile_agent(agent) if obj["kind"] == "Service"]
    for index, (stage, obj) in enumerate(zip(agent.spec.stages, services, strict=True)):
        template = obj["spec"]["template"]
        deadline = (template["metadata"].get("annotations") or {}).get(PROGRESS_DEADLINE_ANNOTATION)
        seconds = None if deadline is None else parse_duration(deadline)
        pool = agent.pool(stage)
        yield StageNeeds(
            agent=position,
            index=index,
            kind=stage.kind,
            namespace=agent.metadata.namespace,
            service=obj["metadata"]["name"],
            spec=template["spec"],
            settings=_set_fields(stage),
            most=stage.scaling.max or None,
            floor=max(stage.scaling.min, _floor(pool)),
            progress_deadline_s=_DEFAULT_DEADLINE_S if seconds is None else float(seconds),
        )


def _floor(pool: WarmPoolTemplate | None) -> int:
    if pool is None or not pool.enabled:
        return 0
    return max((window.replicas for window in pool.windows), default=0)


def _set_fields(model: AgentModel) -> frozenset[str]:
    fields = type(model).model_fields
    return frozenset(fields[name].alias or name for name in model.model_fields_set)


def rights(needs: Iterable[StageNeeds], *, pools: bool) -> list[Right]:
    """The actions that a deploy takes."""
    kinds = [("serving.knative.dev", "services")] + ([("pilotlight.dev", "warmpools")] if pools else [])
    namespaces = sorted({need.namespace for need in needs}) or ["default"]
    return [
        Right(verb, group, resource, namespace)
        for namespace in namespaces
        for group, resource in kinds
        for verb in ("get", "create", "patch")
    ]


def references(need: StageNeeds) -> Iterator[tuple[Reference, str]]:
    """The objects that a stage's pods name, each with the field of the agent file that names it."""
    spec, namespace = need.spec, need.namespace
    for field, kind in (("priorityClassName", "PriorityClass"), ("runtimeClassName", "RuntimeClass")):
        if field in spec:
            yield Reference(kind, spec[field]), field
    if "serviceAccountName" in spec:
        yield Reference("ServiceAccount", spec["serviceAccountName"], namespace), "serviceAccountName"
    for secret in spec.get("imagePullSecrets") or ():
        yield Reference("Secret", secret["name"], namespace), "imagePullSecrets"
    for container in spec.get("containers") or ():
        for entry in container.get("envFrom") or ():
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                source = entry.get(key)
                if source and not source.get("optional"):
                    yield Reference(kind, source["name"], namespace), "envFrom"
    for volume in spec.get("volumes") or ():
        yield from ((reference, "volumes") for reference in _named_by(volume, namespace))


def _named_by(volume: Mapping[str, Any], namespace: str) -> Iterator[Reference]:
    for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
        for key, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
            found = source.get(key)
            if found and not found.get("optional") and (name := found.get("secretName") or found.get("name")):
                yield Reference(kind, name, namespace)
