"""The agent file: one description of an agent, compiled to Knative Services and WarmPools.

What runs on one machine is what runs on a cluster: both get the objects that `compile_agent` returns.
"""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from knative import annotations as knative_annotations
from knative import render
from pilotlight import located
from warmpool.domain.pool import WarmPoolTemplate

API_VERSION = "pilotlight.dev/v1alpha1"
DEFAULT_IMAGE = "pilotlight/functions:0.1.0"
GPU = "nvidia.com/gpu"

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DURATION = re.compile(r"(\d+(\.\d+)?(ms|s|m|h))+")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_URI = re.compile(r"(s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?|file://.+|[./~].*)")
_LONGEST_NAME = 57  # a Revision is called NAME-00001 and its label value may have 63 characters


class AgentFileError(ValueError):
    """The agent file is not usable; `str()` has a line a problem: file, line, field, value, what is right."""


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value) or len(value) > _LONGEST_NAME:
        raise ValueError(
            f"must be lower-case letters, digits and '-', first a letter, at most {_LONGEST_NAME} long"
        )
    return value


def _duration(value: str) -> str:
    if not _DURATION.fullmatch(value):
        raise ValueError("must be a duration such as 30s, 90s or 10m")
    return value


def _quantity(value: object) -> object:
    text = str(value)
    if isinstance(value, bool) or not _QUANTITY.fullmatch(text):
        raise ValueError("must be a Kubernetes quantity such as 1, 500m or 8Gi")
    return text


def _uri(value: str) -> str:
    if not _URI.fullmatch(value):
        raise ValueError("must be s3://BUCKET/PREFIX, file:///FOLDER or a path starting with / ./ or ~")
    return value


Label = Annotated[str, AfterValidator(_label)]
Duration = Annotated[str, AfterValidator(_duration)]
Quantity = Annotated[str, BeforeValidator(_quantity)]


class Kind(StrEnum):
    """What a stage does; `container` is the user's own image."""

    INGEST = "ingest"
    GENERATE = "generate"
    POSTPROCESS = "postprocess"
    ORCHESTRATE = "orchestrate"
    CONTAINER = "container"


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False, strict=False
    )


class Metadata(_Model):
    """Name and namespace; the name becomes a part of every Service's name."""

    name: Label
    namespace: Label = "default"
    labels: dict[str, str] = Field(default_factory=dict)


class ModelRef(_Model):
    """The model that `generate` serves and whose tokenizer `ingest` counts with."""

    uri: Annotated[str, AfterValidator(_uri)]
    name: str = Field(default="", max_length=200)


class Engine(_Model):
    """How the model is served; `args` are the engine's own options, spelt as on its command line."""

    type: Literal["vllm", "openai", "onnx"] = "vllm"
    args: dict[str, str | int | float | bool | None] = Field(default_factory=dict)

    @field_validator("args")
    @classmethod
    def _without_dashes(cls, args: dict[str, Any]) -> dict[str, Any]:
        for key in args:
            if key.startswith("-") or "_" in key:
                right = key.lstrip("-").replace("_", "-")
                raise ValueError(f"'{key}' must be written without leading dashes and with '-': {right}")
        return args


class Resources(_Model):
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


class Scaling(_Model):
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


class Stage(_Model):
    """One stage of the chain: one Knative Service."""

    name: Label
    kind: Kind
    config: dict[str, Any] = Field(default_factory=dict)
    engine: Engine | None = None
    resources: Resources = Field(default_factory=Resources)
    scaling: Scaling = Field(default_factory=Scaling)
    warm_pool: WarmPoolTemplate | None = None
    warmth: Literal["hot", "asleep", "standby"] = "hot"
    timeout_seconds: int | None = Field(default=None, ge=1, le=600)
    progress_deadline: Duration | None = None
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
        self._check_batch()
        self._check_pool()
        return self

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


class Spec(_Model):
    """What the agent consists of."""

    image: str = DEFAULT_IMAGE
    model: ModelRef | None = None
    env: dict[str, str] = Field(default_factory=dict)
    env_from: list[dict[str, Any]] = Field(default_factory=list)
    warm_pool: WarmPoolTemplate | None = Field(
        default=None, description="for every stage without one of its own"
    )
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages: the name {name!r} stands twice; each needs its own")
        for kind in (Kind.ORCHESTRATE, Kind.GENERATE):
            if sum(stage.kind is kind for stage in self.stages) > 1:
                raise ValueError(f"stages: at most one stage of kind {kind}")
        if self.model is None and any(stage.kind in {Kind.GENERATE, Kind.INGEST} for stage in self.stages):
            raise ValueError(
                "model is required by stages of kind ingest and generate: model: {uri: s3://BUCKET/PREFIX}"
            )
        if any(stage.kind is Kind.ORCHESTRATE for stage in self.stages) and len(self.stages) == 1:
            raise ValueError("stages: orchestrate needs at least one other stage to call")
        return self


class Agent(_Model):
    """An agent: a named chain of stages."""

    api_version: Literal["pilotlight.dev/v1alpha1"]
    kind: Literal["Agent"]
    metadata: Metadata
    spec: Spec

    @model_validator(mode="after")
    def _service_names_fit(self) -> Self:
        for stage in self.spec.stages:
            name = self.service_name(stage)
            if len(name) > _LONGEST_NAME:
                raise ValueError(
                    f"the Service's name {name!r} has {len(name)} characters, at most {_LONGEST_NAME} fit: "
                    "shorten the agent's or the stage's name"
                )
        return self

    def service_name(self, stage: Stage) -> str:
        """The Knative Service's name of one stage."""
        return f"{stage.name}-{self.metadata.name}"

    def entry(self) -> Stage:
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
            _uri(uri)
        except ValueError as error:
            raise AgentFileError(f"--model {uri}: {error}") from error
        model = self.spec.model.model_copy(update={"uri": uri})
        return self.model_copy(update={"spec": self.spec.model_copy(update={"model": model})})

    def pool(self, stage: Stage) -> WarmPoolTemplate | None:
        """The stage's warm pool: its own, else the agent's."""
        return stage.warm_pool or self.spec.warm_pool


def load_agent(path: Path) -> Agent:
    """Read and check an agent file.

    Raises:
        AgentFileError: with one line for each problem.
    """
    try:
        document = located.load(path)
    except located.FileError as error:
        raise AgentFileError(str(error)) from error
    if not isinstance(document.value, dict):
        raise AgentFileError(f"{path}:1: must be a mapping with apiVersion, kind, metadata and spec")
    try:
        agent = Agent.model_validate(document.value)
    except ValidationError as error:
        problems = [_problem(path, document, dict(detail)) for detail in error.errors(include_url=False)]
        raise AgentFileError("\n".join(problems)) from error
    problems = []
    for index, stage in enumerate(agent.spec.stages):
        # The webhook's own rules, in its own words: a cluster would say the same, only later.
        found = knative_annotations.validate(_autoscaling(stage).annotations(), allow_zero_initial_scale=True)
        line = document.line(("spec", "stages", index, "scaling"))
        problems += [f"{path}:{line}: spec.stages.{index}.scaling: {problem}" for problem in found]
    if problems:
        raise AgentFileError("\n".join(problems))
    return agent


def _problem(path: Path, document: located.Located, detail: Mapping[str, Any]) -> str:
    location = _without_union_tags(detail["loc"])
    dotted = ".".join(str(part) for part in location) or "(whole file)"
    message = detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "missing":
            text = f"{dotted}: is missing"
        case "extra_forbidden":
            known = _known_fields(location[:-1])
            text = f"{dotted}: no such field" + (f"; known here: {', '.join(known)}" if known else "")
        case _:
            value = detail.get("input")
            shown = (
                "" if isinstance(value, dict | list | BaseModel) else f" = {json.dumps(value, default=str)}"
            )
            text = f"{dotted}{shown}: {message}"
    return f"{path}:{document.line(location)}: {text}"


def _without_union_tags(location: located.Location) -> located.Location:
    """Pydantic names the kind of a window (`weekly`, `cron`) in a location; the file has no such key."""
    kept: list[str | int] = []
    for part in location:
        if not (kept and isinstance(kept[-1], int) and part in {"weekly", "cron"}):
            kept.append(part)
    return tuple(kept)


def _known_fields(location: located.Location) -> list[str]:
    """The field names that the model at `location` has; empty where that is no model of this module."""
    model: type[BaseModel] | None = Agent
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = _model_in(fields[part].annotation) if part in fields else None
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model class inside an annotation such as `list[Stage]` or `Engine | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None


def compile_agent(agent: Agent) -> list[dict[str, Any]]:
    """The agent's objects: a Knative Service for each stage, then its WarmPools."""
    namespace = agent.metadata.namespace
    services = [_service(agent, stage) for stage in agent.spec.stages]
    pools = []
    for stage in agent.spec.stages:
        if (pool := agent.pool(stage)) is not None:
            name = agent.service_name(stage)
            pools.append(pool.to_object(name=name, namespace=namespace, target=name))
    return services + pools


def _service(agent: Agent, stage: Stage) -> dict[str, Any]:
    own = stage.kind is Kind.CONTAINER
    container = render.Container(
        image=stage.image or agent.spec.image,
        command=stage.command if own else ["python", "-m", "functions"],
        args=stage.args if own else [stage.kind.value],
        env=_environment(agent, stage),
        env_from=[*agent.spec.env_from, *stage.env_from],
        requests=stage.resources.requests,
        limits=stage.resources.limits,
        ready_path=None if own else "/healthz/ready",
    )
    return render.service(
        name=agent.service_name(stage),
        namespace=agent.metadata.namespace,
        container=container,
        autoscaling=_autoscaling(stage),
        container_concurrency=stage.scaling.container_concurrency or None,
        timeout_seconds=stage.timeout_seconds,
        progress_deadline=stage.progress_deadline or ("1800s" if stage.kind is Kind.GENERATE else None),
        labels={
            **agent.metadata.labels,
            "pilotlight.dev/agent": agent.metadata.name,
            "pilotlight.dev/stage": stage.kind.value,
        },
    )


def _autoscaling(stage: Stage) -> render.Autoscaling:
    scaling = stage.scaling
    return render.Autoscaling(
        min_scale=scaling.min or None,
        max_scale=scaling.max or None,
        initial_scale=scaling.initial,
        activation_scale=scaling.activation,
        metric=None if scaling.metric == "concurrency" else scaling.metric,
        target=scaling.target,
        target_utilization_percentage=scaling.target_utilization_percentage,
        window=scaling.window,
        scale_down_delay=scaling.scale_down_delay,
        scale_to_zero_pod_retention_period=scaling.retention,
    )


def _environment(agent: Agent, stage: Stage) -> dict[str, str]:
    env = dict(agent.spec.env)
    if stage.kind is not Kind.CONTAINER:
        env["PILOTLIGHT_AGENT"] = agent.metadata.name
        if agent.spec.model is not None and stage.kind in {Kind.INGEST, Kind.GENERATE}:
            env["PILOTLIGHT_MODEL_URI"] = agent.spec.model.uri
            env["PILOTLIGHT_MODEL_NAME"] = agent.spec.model.name or agent.metadata.name
        if stage.kind is Kind.GENERATE:
            engine = stage.engine or Engine()
            env["PILOTLIGHT_ENGINE"] = engine.type
            if engine.args:
                env["PILOTLIGHT_ENGINE_ARGS"] = json.dumps(engine.args)
            if stage.warmth != "hot":
                env["PILOTLIGHT_WARMTH"] = stage.warmth
        if stage.kind is Kind.ORCHESTRATE:
            env["PILOTLIGHT_STAGES"] = json.dumps(
                [
                    {"name": other.name, "kind": other.kind.value, "url": _url(agent, other)}
                    for other in agent.spec.stages
                    if other is not stage
                ]
            )
        if stage.config:
            env["PILOTLIGHT_STAGE_CONFIG"] = json.dumps(stage.config)
    return env | stage.env


def _url(agent: Agent, stage: Stage) -> str:
    return f"http://{agent.service_name(stage)}.{agent.metadata.namespace}.svc.cluster.local"
