"""What an agent needs of a cluster, read from the objects that it compiles to (pure)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knative import env_vars
from knative.client.resources import SECRET, SERVICE, WARM_POOL
from knative.labels import PROGRESS_DEADLINE_ANNOTATION
from knative.literals import parse_duration, parse_quantity
from pilotlight.agent import Agent
from pilotlight.agent_resources import resource_of
from pilotlight.agent_values import AgentModel
from pilotlight.compile import compile_agent, compile_for_cluster
from pilotlight.compile_access import secret_mounts
from pilotlight.compile_gpu import gpu_of
from pilotlight.doctor.cluster_facts import Reference, Right
from pilotlight.doctor.findings import Location
from pilotlight.mesh.objects import mesh_objects
from pilotlight.stage_spec import Kind, StageSpec
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
        initial_scale: replicas that a new Revision starts with; None for the cluster's default.
        s3_objects: names of the objects that the agent's `s3` names.
        gpu_field: where its GPUs stand.
        account_is_made: a deploy makes its ServiceAccount.
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
    initial_scale: int | None = None
    s3_objects: frozenset[str] = frozenset()
    gpu_field: Location = ("spec", "gpu")
    account_is_made: bool = False
    model_uri: str | None = None
    """Of the model whose files it reads."""

    def field(self, name: str) -> Location:
        """Where a setting stands: in the stage, or in `spec` for all."""
        return ("spec", "stages", self.index, name) if name in self.settings else ("spec", name)

    def own_field(self, name: str) -> Location:
        """Where a setting that only stages have stands."""
        return ("spec", "stages", self.index, name)

    def place_of(self, reference: Reference, field: str) -> Location:
        """Where an object is named: in `s3`, else in a field that lists several."""
        return ("spec", "s3") if reference.name in self.s3_objects else self.field(field)

    @property
    def gpus(self) -> dict[str, int]:
        """Devices of one replica, by the name of their resource."""
        found: dict[str, int] = {}
        for container in self.spec.get("containers") or ():
            for name, amount in ((container.get("resources") or {}).get("limits") or {}).items():
                if is_gpu(name):
                    found[name] = found.get(name, 0) + int(parse_quantity(amount) or 0)
        return {name: count for name, count in found.items() if count}

    @property
    def reads_model(self) -> bool:
        """Whether its pods read the model's weights."""
        env = self.spec["containers"][0].get("env") or ()
        engine = next((entry.get("value") for entry in env if entry["name"] == env_vars.ENGINE), None)
        return self.kind is Kind.GENERATE and engine != "openai"

    @property
    def knows_callers(self) -> bool:
        """Whether it says whose requests it answers, or is the user's own container."""
        env = self.spec["containers"][0].get("env") or ()
        return self.kind in {Kind.CONTAINER, Kind.TOOL} or any(
            entry["name"] == env_vars.AUTH for entry in env
        )

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
    for stage, obj in zip(agent.spec.services, services, strict=True):
        index = agent.spec.stages.index(stage)
        template = obj["spec"]["template"]
        deadline = (template["metadata"].get("annotations") or {}).get(PROGRESS_DEADLINE_ANNOTATION)
        seconds = None if deadline is None else parse_duration(deadline)
        pool = agent.pool(stage)
        yield StageNeeds(
            agent=position,
            index=index,
            kind=stage.kind,
            model_uri=agent.spec.model_uri(stage),
            namespace=agent.metadata.namespace,
            service=obj["metadata"]["name"],
            spec=template["spec"],
            settings=_set_fields(stage),
            most=stage.scaling.max or None,
            floor=max(stage.scaling.min, _floor(pool)),
            initial_scale=stage.scaling.initial,
            gpu_field=_gpu_field(agent, stage, index),
            s3_objects=frozenset() if agent.spec.s3 is None else agent.spec.s3.objects,
            account_is_made=template["spec"].get("serviceAccountName") in _made_accounts(agent),
            progress_deadline_s=_DEFAULT_DEADLINE_S if seconds is None else float(seconds),
        )


def _made_accounts(agent: Agent) -> set[str]:
    """Names of the ServiceAccounts that a deploy makes, which need not be there before."""
    return {obj["metadata"]["name"] for obj in mesh_objects(agent) if obj["kind"] == "ServiceAccount"}


def _gpu_field(agent: Agent, stage: StageSpec, index: int) -> Location:
    if gpu_of(agent, stage) is None:
        return ("spec", "stages", index, "resources")
    return ("spec", "gpu") if stage.gpu is None else ("spec", "stages", index, "gpu")


def _floor(pool: WarmPoolTemplate | None) -> int:
    if pool is None or not pool.enabled:
        return 0
    return max((window.replicas for window in pool.windows), default=0)


def _set_fields(model: AgentModel) -> frozenset[str]:
    fields = type(model).model_fields
    return frozenset(fields[name].alias or name for name in model.model_fields_set)


def rights(agents: Sequence[Agent]) -> list[Right]:
    """The actions that a deploy takes."""
    kinds = {
        (resource_of(obj), obj["metadata"]["namespace"])
        for agent in agents
        for obj in (*compile_agent(agent), *compile_for_cluster(agent))
    }
    kinds |= {
        (SECRET, agent.metadata.namespace)
        for agent in agents
        if any(secret_mounts(agent, stage) for stage in agent.spec.services)
    }
    kinds = kinds or {(SERVICE, "default"), (WARM_POOL, "default")}
    found = [
        Right(verb, resource.group, resource.plural, namespace)
        for resource, namespace in kinds
        for verb in (("get", "create") if resource is SECRET else ("get", "create", "patch"))
    ]
    return sorted(found, key=lambda right: (right.namespace, right.resource))


def references(need: StageNeeds) -> Iterator[tuple[Reference, Location]]:
    """The objects that a stage's pods name, each with the field of the agent file that names it."""
    spec, namespace = need.spec, need.namespace
    yield Reference("Namespace", namespace), ("metadata", "namespace")
    for field, kind in (("priorityClassName", "PriorityClass"), ("runtimeClassName", "RuntimeClass")):
        if field in spec:
            yield Reference(kind, spec[field]), need.field(field)
    if "serviceAccountName" in spec and not need.account_is_made:
        name = "serviceAccountName"
        yield Reference("ServiceAccount", spec[name], namespace), need.field(name)
    for secret in spec.get("imagePullSecrets") or ():
        yield Reference("Secret", secret["name"], namespace), need.field("imagePullSecrets")
    for entry in (entry for item in spec.get("containers") or () for entry in item.get("envFrom") or ()):
        sources = (("Secret", entry.get("secretRef")), ("ConfigMap", entry.get("configMapRef")))
        for reference in _required(sources, namespace):
            yield reference, need.place_of(reference, "envFrom")
    yield from _of_volumes(need)


def _of_volumes(need: StageNeeds) -> Iterator[tuple[Reference, Location]]:
    for volume in need.spec.get("volumes") or ():
        for source in (volume, *((volume.get("projected") or {}).get("sources") or ())):
            sources = (("Secret", source.get("secret")), ("ConfigMap", source.get("configMap")))
            for reference in _required(sources, need.namespace):
                yield reference, need.place_of(reference, "volumes")


def _required(sources: Iterable[tuple[str, Mapping[str, Any] | None]], namespace: str) -> Iterator[Reference]:
    """The objects among these without which a pod does not start."""
    for kind, source in sources:
        if source and not source.get("optional") and (name := source.get("secretName") or source.get("name")):
            yield Reference(kind, name, namespace)
