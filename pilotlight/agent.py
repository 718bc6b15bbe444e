"""The agent file's content, as values: what an agent is, and what of it would be refused.

`pilotlight.agent_reader` makes it from a file, `pilotlight.compile` makes Knative's objects from it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from pilotlight.access_settings import Auth, NetworkPolicySettings, Origin
from pilotlight.agent_triggers import AgentTrigger
from pilotlight.agent_values import LONGEST_NAME, AgentModel, Label, model_uri
from pilotlight.dispatcher_settings import DispatcherSettings
from pilotlight.gpu_settings import GpuType
from pilotlight.mesh_settings import Mesh, MeshSettings, MeshType
from pilotlight.pod_settings import PodSettings
from pilotlight.s3_settings import S3
from pilotlight.stage_spec import Kind, ModelRef, StageSpec
from warmpool.domain.pool import WarmPoolTemplate

API_VERSION = "pilotlight.dev/v1alpha1"


class AgentFileError(ValueError):
    """The agent file is not usable; `str()` has a line a problem: file, line, field, value, what is right."""


class AgentMetadata(AgentModel):
    """Name and namespace; the name becomes a part of every Service's name."""

    name: Label
    namespace: Label = "default"
    labels: dict[str, str] = Field(default_factory=dict)


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

    @property
    def services(self) -> list[StageSpec]:
        """The stages that become Knative Services."""
        return [stage for stage in self.stages if stage.has_service]

    def reads_model(self, stage: StageSpec) -> bool:
        """Whether a Service reads files of a model: its own stage does, or one in its process."""
        if stage.kind is not Kind.ORCHESTRATE:
            return stage.reads_model
        return any(other.colocate and self.model_uri(other) is not None for other in self.stages)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages: the name {name!r} stands twice; each needs its own")
        if sum(stage.kind is Kind.ORCHESTRATE for stage in self.stages) > 1:
            raise ValueError(f"stages: at most one stage of kind {Kind.ORCHESTRATE}")
        self._check_model()
        self._check_mounts()
        self._check_triggers([stage.name for stage in self.services])
        if not self.services:
            raise ValueError("stages: at least one must become a Service, such as kind orchestrate")
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

    def model_uri(self, stage: StageSpec) -> str | None:
        """The address of the model that a stage reads files of; None where there is none."""
        model = self.model_of(stage)
        return None if model is None else model.uri

    def _check_model(self) -> None:
        for stage in self.stages:
            model = self.model_of(stage) or ModelRef()
            if stage.engine_type == "openai":
                if not model.name and not (stage.engine and stage.engine.args.get("model")):
                    raise ValueError(
                        "model.name is required by engine openai (the name at base-url): model: {name: NAME}"
                    )
            elif stage.reads_model and model.uri is None and not self._counts_characters(stage):
                raise ValueError(
                    f"model.uri is required by a stage of kind {stage.kind}: model: {{uri: s3://BUCKET/PREFIX}}"
                )

    def _counts_characters(self, stage: StageSpec) -> bool:
        """Whether an ingest stage stands before a model at `base-url`, whose tokenizer is not at hand."""
        behind = self._model_behind(stage)
        return stage.kind is Kind.INGEST and behind is not None and behind.engine_type == "openai"

    def _model_behind(self, stage: StageSpec) -> StageSpec | None:
        """The model that an ingest stage counts for: the next in the list, else the first."""
        models = [other for other in self.stages if other.engine_type in {"vllm", "openai"}]
        place = self.stages.index(stage)
        return next((other for other in models if self.stages.index(other) > place), next(iter(models), None))

    def model_of(self, stage: StageSpec) -> ModelRef | None:
        """What a stage serves or counts with: its own model, that of the stage it counts for, the agent's."""
        if stage.model is not None or not stage.reads_model:
            return stage.model
        behind = self._model_behind(stage) if stage.kind is Kind.INGEST else None
        return self.model if behind is None or behind.model is None else behind.model


class Agent(AgentModel):
    """An agent: a named chain of stages."""

    api_version: Literal["pilotlight.dev/v1alpha1"]
    kind: Literal["Agent"]
    metadata: AgentMetadata
    spec: AgentSpec
    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Of the agent file, in which its modules are on this machine; None: it comes from no file."""
        return self._folder

    def of_folder(self, folder: Path) -> "Agent":
        """The same agent, read from a file in that folder."""
        agent = self.model_copy()
        agent._folder = folder  # noqa: SLF001 - of the same class
        return agent

    @model_validator(mode="after")
    def _service_names_fit(self) -> Self:
        for stage in self.spec.services:
            name = self.service_name(stage)
            if len(name) > LONGEST_NAME:
                raise ValueError(
                    f"the Service's name {name!r} has {len(name)} characters, at most {LONGEST_NAME} fit: "
                    "shorten the agent's or the stage's name"
                )
        return self

    @property
    def modules_without_image(self) -> list[str]:
        """Stages whose Python module is in no image that the file names."""
        spec = self.spec
        return [stage.name for stage in spec.stages if stage.module and not (stage.image or spec.image)]

    def service_name(self, stage: StageSpec) -> str:
        """The Knative Service's name of one stage."""
        return f"{stage.name}-{self.metadata.name}"

    @property
    def orchestrate(self) -> StageSpec | None:
        """The stage that takes requests through the others."""
        return next((stage for stage in self.spec.stages if stage.kind is Kind.ORCHESTRATE), None)

    def entry(self) -> StageSpec:
        """The stage that a user calls: orchestrate if there is one, else the first."""
        return self.orchestrate or self.spec.services[0]

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

    def with_absolute_models(self, absolute: Callable[[str], str]) -> "Agent":
        """The same agent with the URI of each model changed."""

        def changed(model: ModelRef | None) -> ModelRef | None:
            if model is None or model.uri is None:
                return model
            return model.model_copy(update={"uri": absolute(model.uri)})

        stages = [stage.model_copy(update={"model": changed(stage.model)}) for stage in self.spec.stages]
        update = {"model": changed(self.spec.model), "stages": stages}
        return self.model_copy(update={"spec": self.spec.model_copy(update=update)})

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
