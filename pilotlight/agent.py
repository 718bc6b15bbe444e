"""The agent file's content, as values: what an agent is, and what of it would be refused.

`pilotlight.agent_reader` makes it from a file, `pilotlight.compile` makes Knative's objects from it.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from pilotlight.access_settings import Auth, NetworkPolicySettings, Origin
from pilotlight.agent_triggers import AgentTrigger
from pilotlight.agent_values import (
    LONGEST_NAME,
    AgentModel,
    Duration,
    EngineOption,
    Label,
    Quantity,
    model_uri,
)
from pilotlight.dispatcher_settings import DispatcherSettings
from pilotlight.gpu_settings import GPU, GpuType
from pilotlight.mesh_settings import Mesh, MeshSettings, MeshType
from pilotlight.pod_settings import PodSettings
from pilotlight.run_settings import run_settings
from pilotlight.s3_settings import S3
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.rollout import Rollout

API_VERSION = "pilotlight.dev/v1alpha1"


class AgentFileError(ValueError):
    """The agent file is not usable; `str()` has a line a problem: file, line, field, value, what is right."""


class Kind(StrEnum):
    """What a stage does; `container` is the user's own image."""

    INGEST = "ingest"
    GENERATE = "generate"
    POSTPROCESS = "postprocess"
    ORCHESTRATE = "orchestrate"
    CONTAINER = "container"


class AgentMetadata(AgentModel):
    """Name and namespace; the name becomes a part of every Service's name."""

    name: Label
    namespace: Label = "default"
    labels: dict[str, str] = Field(default_factory=dict)


class ModelRef(AgentModel):
    """The model that `generate` serves and whose tokenizer `ingest` counts with."""

    uri: Annotated[str, AfterValidator(model_uri)] | None = None
    """None where nothing is loaded: the model of engine `openai` is at its `base-url`."""
    name: str = Field(default="", max_length=200)


class EngineSpec(AgentModel):
    """How the model is served."""

    type: Literal["vllm", "openai", "onnx"] = "vllm"
    args: dict[str, EngineOption] = Field(default_factory=dict)
    """The engine's own options, spelt as on its command line; lists and mappings as YAML has them."""

    @field_validator("args")
    @classmethod
    def _without_dashes(cls, args: dict[str, Any]) -> dict[str, Any]:
        for key in args:
            if key.startswith("-") or "_" in key:
                right = key.lstrip("-").replace("_", "-")
                raise ValueError(f"'{key}' must be written without leading dashes and with '-': {right}")
        return args


class Resources(AgentModel):
    """Kubernetes resources; GPUs are whole and stand in `limits`."""

    requests: dict[str, Quantity] = Field(default_factory=dict)
    limits: dict[str, Quantity] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _gpus_are_whole_limits(self) -> Self:
        if GPU in self.requests and GPU not in self.limits:
            raise ValueError(f"{GPU} must stand in limits (Kubernetes refuses it in requests alone)")
        if not self.limits.get(GPU, "0").isdigit():
            raise ValueError(f"{GPU} must be a whole number, not {self.limits[GPU]}")
        return self


class Scaling(AgentModel):
    """Knative's scaling of one stage; what is left out keeps Knative's default."""

    min: int = Field(default=0, ge=0)
    max: int = Field(default=0, ge=0, description="0: no limit")
    initial: int | None = Field(default=None, ge=0)
    activation: int | None = Field(default=None, ge=2)
    metric: Literal["concurrency", "rps"] = "concurrency"
    target: float | None = Field(default=None, ge=0.01)
    target_utilization_percentage: int | None = Field(default=None, ge=1, le=100)
    container_concurrency: int = Field(default=0, ge=0, le=1000, description="0: no limit")
    window: Duration | None = None
    scale_down_delay: Duration | None = None
    retention: Duration | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max and self.min > self.max:
            raise ValueError(f"min ({self.min}) must be at most max ({self.max})")
        if self.max and self.initial is not None and self.initial > self.max:
            raise ValueError(f"initial ({self.initial}) must be at most max ({self.max})")
        limit = self.container_concurrency if self.metric == "concurrency" else 0
        if limit and self.target is not None and self.target > limit:
            raise ValueError(
                f"target ({self.target:g}) must be at most containerConcurrency ({limit}): "
                "it could never be reached"
            )
        if self.activation is not None and self.activation < self.min:
            raise ValueError(f"activation ({self.activation}) must be at least min ({self.min})")
        return self


class StageSpec(PodSettings):
    """One stage of the chain: one Knative Service."""

    name: Label
    kind: Kind
    public: bool = False
    """Reachable from outside the cluster; the agent's entry always is."""
    config: dict[str, Any] = Field(default_factory=dict)
    engine: EngineSpec | None = None
    resources: Resources = Field(default_factory=Resources)
    scaling: Scaling = Field(default_factory=Scaling)
    warm_pool: WarmPoolTemplate | None = None
    rollout: Rollout | None = None
    """How a new Revision gets the traffic; goes before a `rollout` of the warm pool."""
    warmth: Literal["hot", "asleep", "standby"] = "hot"
    snapshot: bool = False
    """Write a snapshot of the template process, for later cold starts to restore; for engine vllm."""
    timeout_seconds: int | None = Field(default=None, ge=1)
    """Of a whole request. The cluster has a maximum (`max-revision-timeout-seconds`, 600 by default)."""
    response_start_timeout_seconds: int | None = Field(default=None, ge=1)
    """Until the first byte of a response; a request may wait that long for a replica."""
    progress_deadline: Duration | None = None
    readiness: Literal["hot", "port"] = "hot"
    """`port`: a replica is ready once its port is open, and holds its requests itself until it is hot."""
    image: str | None = None
    command: list[str] = Field(default_factory=list)
    args: list[str] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    env_from: list[dict[str, Any]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        own = self.kind is Kind.CONTAINER
        if own and not self.image:
            raise ValueError("a stage of kind container needs an image")
        if not own and (self.command or self.args):
            raise ValueError(f"command and args are for kind container, not {self.kind}")
        if self.engine is not None and self.kind is not Kind.GENERATE:
            raise ValueError(f"engine is for kind generate, not {self.kind}")
        if self.warmth != "hot" and self.kind is not Kind.GENERATE:
            raise ValueError(f"warmth {self.warmth} is for kind generate, not {self.kind}")
        if self.snapshot and self.engine_type != "vllm":
            raise ValueError("snapshot: true is for kind generate with engine vllm")
        if (
            self.timeout_seconds is not None
            and self.response_start_timeout_seconds is not None
            and self.response_start_timeout_seconds > self.timeout_seconds
        ):
            raise ValueError(
                f"responseStartTimeoutSeconds ({self.response_start_timeout_seconds}) must be at most "
                f"timeoutSeconds ({self.timeout_seconds})"
            )
        self._check_readiness()
        self._check_batch()
        self._check_gpus()
        self._check_pool()
        if self.kind is Kind.ORCHESTRATE:
            run_settings(self.config)
        return self

    @property
    def engine_type(self) -> str | None:
        """The engine of a stage of kind generate; None for other kinds."""
        if self.kind is not Kind.GENERATE:
            return None
        return EngineSpec().type if self.engine is None else self.engine.type

    @property
    def reads_model(self) -> bool:
        """Whether it reads files of the model: weights, or the tokenizer."""
        return self.kind in {Kind.INGEST, Kind.GENERATE}

    @property
    def parallel_workers(self) -> int:
        """Processes that the engine spreads the model over: tensor times pipeline parallelism."""
        workers = 1
        for option in ("tensor-parallel-size", "pipeline-parallel-size"):
            size = self.engine.args.get(option, 1) if self.engine else 1
            workers *= size if isinstance(size, int) and size > 0 else 1
        return workers

    def _check_readiness(self) -> None:
        if self.readiness == "port" and self.kind is Kind.CONTAINER:
            raise ValueError("readiness port is for the project's own stages: a container has its own probe")
        if self.readiness == "port" and not self.scaling.container_concurrency:
            raise ValueError(
                "readiness port must have scaling.containerConcurrency beside it: without a limit, the first "
                "replica whose port is open would get every held request, and those that start later none"
            )

    def _check_gpus(self) -> None:
        gpus = int(self.resources.limits.get(GPU, "0"))
        if gpus and self.parallel_workers > gpus:
            raise ValueError(
                f"engine.args.tensor-parallel-size times pipeline-parallel-size ({self.parallel_workers}) "
                f"must be at most resources.limits.{GPU} ({gpus}): each worker needs a GPU of its own"
            )

    def _check_batch(self) -> None:
        seqs = self.engine.args.get("max-num-seqs") if self.engine else None
        concurrency = self.scaling.container_concurrency
        if isinstance(seqs, int) and concurrency and concurrency > seqs:
            raise ValueError(
                f"scaling.containerConcurrency ({concurrency}) must be at most engine.args.max-num-seqs "
                f"({seqs}): the rest would wait inside the engine, where no other replica can take them"
            )

    def _check_pool(self) -> None:
        if self.warm_pool is None or not self.scaling.max:
            return
        for window in self.warm_pool.windows:
            if window.replicas > self.scaling.max:
                raise ValueError(
                    f"warmPool window {window.name!r} holds {window.replicas} replicas, "
                    f"but scaling.max is {self.scaling.max}"
                )


class AgentSpec(PodSettings):
    """What the agent consists of."""

    image: str | None = None
    """The image of stages without one of their own; required on a cluster."""
    model: ModelRef | None = None
    env: dict[str, str] = Field(default_factory=dict)
    env_from: list[dict[str, Any]] = Field(default_factory=list)
    warm_pool: WarmPoolTemplate | None = Field(
        default=None, description="for every stage without one of its own"
    )
    auth: Auth | None = None
    """Whose requests the stages answer; required on a cluster, where `none` has to be written out."""
    allowed_origins: list[Origin] = Field(default_factory=list)
    """Origins of other sites' pages that may call from a browser."""
    network_policy: NetworkPolicySettings = Field(default_factory=NetworkPolicySettings)
    mesh: Mesh = Field(default_factory=MeshSettings)
    """The cluster's service mesh, which encrypts between pods and knows them by their accounts."""
    progress_seconds: float | None = Field(default=None, ge=0)
    """Seconds between the comments in a stream that waits for a start; 0: none. By default 2."""
    s3: S3 | None = None
    """Where the model's bucket is."""
    gpu_types: dict[str, GpuType] = Field(default_factory=dict)
    """Adds to the packaged table of GPU types."""
    stages: list[StageSpec] = Field(min_length=1)
    triggers: list[AgentTrigger] = Field(default_factory=list, max_length=100)
    """Queues whose messages are posted to a stage."""
    dispatcher: DispatcherSettings = Field(default_factory=DispatcherSettings)
    """The pods that post them, on a cluster."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages: the name {name!r} stands twice; each needs its own")
        for kind in (Kind.ORCHESTRATE, Kind.GENERATE):
            if sum(stage.kind is kind for stage in self.stages) > 1:
                raise ValueError(f"stages: at most one stage of kind {kind}")
        self._check_model()
        self._check_mounts()
        self._check_triggers(names)
        if any(stage.kind is Kind.ORCHESTRATE for stage in self.stages) and len(self.stages) == 1:
            raise ValueError("stages: orchestrate needs at least one other stage to call")
        return self

    def _check_triggers(self, stages: list[str]) -> None:
        names = [trigger.name for trigger in self.triggers]
        for trigger in self.triggers:
            if names.count(trigger.name) > 1:
                raise ValueError(f"triggers: the name {trigger.name!r} stands twice; each needs its own")
            to_wake = () if isinstance(trigger.wake_ahead, bool) else trigger.wake_ahead
            for stage in (trigger.stage, *to_wake):
                if stage is not None and stage not in stages:
                    raise ValueError(
                        f"triggers: {trigger.name}: there is no stage {stage!r} (there: {', '.join(stages)})"
                    )

    def _check_mounts(self) -> None:
        for stage in self.stages:
            known = [volume.name for volume in (*self.volumes, *stage.volumes)]
            for mount in (*self.volume_mounts, *stage.volume_mounts):
                if mount.name not in known:
                    raise ValueError(
                        f"volumeMounts of stage {stage.name}: {mount.name!r} is not in volumes"
                        f" (there: {', '.join(known) or 'none'})"
                    )

    def _check_model(self) -> None:
        model = self.model or ModelRef()
        generate = next((stage for stage in self.stages if stage.kind is Kind.GENERATE), None)
        if generate is not None and generate.engine_type == "openai":
            # The model is at base-url; ingest counts characters where it has no tokenizer.
            if not model.name and not (generate.engine and generate.engine.args.get("model")):
                raise ValueError(
                    "model.name is required by engine openai (the name at base-url): model: {name: NAME}"
                )
            return
        needing = [stage.kind for stage in self.stages if stage.kind in {Kind.GENERATE, Kind.INGEST}]
        if needing and model.uri is None:
            raise ValueError(
                f"model.uri is required by a stage of kind {needing[0]}: model: {{uri: s3://BUCKET/PREFIX}}"
            )


class Agent(AgentModel):
    """An agent: a named chain of stages."""

    api_version: Literal["pilotlight.dev/v1alpha1"]
    kind: Literal["Agent"]
    metadata: AgentMetadata
    spec: AgentSpec

    @model_validator(mode="after")
    def _service_names_fit(self) -> Self:
        for stage in self.spec.stages:
            name = self.service_name(stage)
            if len(name) > LONGEST_NAME:
                raise ValueError(
                    f"the Service's name {name!r} has {len(name)} characters, at most {LONGEST_NAME} fit: "
                    "shorten the agent's or the stage's name"
                )
        return self

    def service_name(self, stage: StageSpec) -> str:
        """The Knative Service's name of one stage."""
        return f"{stage.name}-{self.metadata.name}"

    def entry(self) -> StageSpec:
        """The stage that a user calls: orchestrate if there is one, else the first."""
        for stage in self.spec.stages:
            if stage.kind is Kind.ORCHESTRATE:
                return stage
        return self.spec.stages[0]

    def with_model(self, uri: str) -> "Agent":
        """The same agent with another model URI.

        Raises:
            AgentFileError: when `uri` is none, or the agent has no model to replace.
        """
        if self.spec.model is None:
            raise AgentFileError(f"--model {uri}: agent {self.metadata.name} has no spec.model")
        try:
            model_uri(uri)
        except ValueError as error:
            raise AgentFileError(f"--model {uri}: {error}") from error
        model = self.spec.model.model_copy(update={"uri": uri})
        return self.model_copy(update={"spec": self.spec.model_copy(update={"model": model})})

    def with_mesh(self, mesh: MeshType) -> "Agent":
        """The same agent in another mesh."""
        settings = self.spec.mesh.model_copy(update={"type": mesh})
        return self.model_copy(update={"spec": self.spec.model_copy(update={"mesh": settings})})

    def is_public(self, stage: StageSpec) -> bool:
        """Whether a stage is reachable from outside the cluster."""
        return stage.public or stage is self.entry()

    def pool(self, stage: StageSpec) -> WarmPoolTemplate | None:
        """The stage's warm pool: its own, else the agent's; with a rollout, one that may hold nothing."""
        pool = stage.warm_pool or self.spec.warm_pool
        if stage.rollout is None:
            return pool
        return (pool or WarmPoolTemplate()).model_copy(update={"rollout": stage.rollout})
