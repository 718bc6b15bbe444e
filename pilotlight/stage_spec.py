"""One stage of the agent file, as values, and what of it would be refused."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from functions.orchestration.agent_loop.config import LoopConfig
from functions.settings import COLOCATED_KINDS, MODULE_REFERENCE
from pilotlight.agent_values import AgentModel, Duration, EngineOption, Label, Quantity, model_uri
from pilotlight.gpu_settings import GPU
from pilotlight.graph_fields import GraphFields
from pilotlight.pod_settings import PodSettings
from pilotlight.run_settings import run_settings
from pilotlight.tool_settings import ToolSettings
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.rollout import Rollout


class Kind(StrEnum):
    """What a stage does; `container` is the user's own image, `stage` the user's own Python.

    An `agent` runs inside of orchestrate.
    """

    INGEST = "ingest"
    GENERATE = "generate"
    POSTPROCESS = "postprocess"
    ORCHESTRATE = "orchestrate"
    CONTAINER = "container"
    STAGE = "stage"
    TOOL = "tool"
    AGENT = "agent"


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


class StageSpec(PodSettings, GraphFields):
    """One stage of the agent: one Knative Service."""

    name: Label
    kind: Kind
    colocate: bool = False
    """It runs in the process of the agent's orchestrate stage, and has no Service of its own."""
    public: bool = False
    """Reachable from outside the cluster; the agent's entry always is."""
    config: dict[str, Any] = Field(default_factory=dict)
    model: ModelRef | None = None
    """What it serves or counts with, instead of the agent's."""
    agent: LoopConfig | None = None
    """The loop of a stage of kind agent."""
    tool: ToolSettings | None = None
    """Of a stage of kind tool."""
    module: Annotated[str, Field(max_length=200)] | None = None
    """`MODULE:NAME` of a function with `@stage` or `@tool`; beside the agent file, or in the image."""
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
        self._check_kind()
        own = self.is_own_image
        if own and not self.image:
            raise ValueError(
                f"a stage of kind {self.kind} needs an image"
                + (" or a module" if self.kind is Kind.TOOL else "")
            )
        if not own and (self.command or self.args):
            raise ValueError(f"command and args are for kinds container and tool, not {self.kind}")
        if self.engine is not None and self.kind is not Kind.GENERATE:
            raise ValueError(f"engine is for kind generate, not {self.kind}")
        if self.model is not None and not self.reads_model:
            raise ValueError(f"model is for kinds generate and ingest, not {self.kind}")
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
    def has_service(self) -> bool:
        """Whether it becomes a Knative Service: it is not in orchestrate's process, nor a tool elsewhere."""
        elsewhere = self.tool is not None and self.tool.url is not None
        return self.kind is not Kind.AGENT and not self.colocate and not elsewhere

    @property
    def is_called(self) -> bool:
        """Whether orchestrate calls it as a stage, in its own process or behind a Service."""
        return self.kind not in {Kind.ORCHESTRATE, Kind.AGENT, Kind.TOOL}

    @property
    def is_own_image(self) -> bool:
        """Whether its Service runs the user's own image."""
        return self.kind in {Kind.CONTAINER, Kind.TOOL} and self.has_service and self.module is None

    def _check_kind(self) -> None:
        """Fields that a kind must have, and those that make no sense with it."""
        self._check_module()
        for kind, value in ((Kind.AGENT, self.agent), (Kind.TOOL, self.tool)):
            if (self.kind is kind) != (value is not None):
                raise ValueError(f"{kind} must be given with kind {kind}, and with no other")
        if self.kind is Kind.TOOL and self.graph_fields:
            raise ValueError(f"{self.graph_fields[0]} is for stages of the graph; a tool is called by agents")
        if self.tool is not None and self.tool.mcp is None and self.tool.description is None:
            raise ValueError("tool.description is missing, must say what the tool does and when to use it")
        if self.colocate:
            self._check_colocated()
        elif not self.has_service:
            allowed = {"name", "kind", "agent", "tool", *GraphFields.model_fields}
            extra = next((name for name in self.model_fields_set if name not in allowed), None)
            if extra is not None:
                why = (
                    "an agent runs inside of orchestrate"
                    if self.kind is Kind.AGENT
                    else "the tool is at its url already"
                )
                shown = StageSpec.model_fields[extra].alias or extra
                raise ValueError(f"{shown} is for stages that become a Service; {why}")

    def _check_colocated(self) -> None:
        """What a stage may say that is nobody's pod."""
        if self.kind.value not in COLOCATED_KINDS:
            raise ValueError(
                f"colocate: true is for kinds {' and '.join(COLOCATED_KINDS)}, which need no more than "
                f"orchestrate's own pod, not {self.kind}"
            )
        allowed = {"name", "kind", "colocate", "config", "model", *GraphFields.model_fields} - {"attempts"}
        extra = next(
            (name for name in type(self).model_fields if name in self.model_fields_set - allowed), None
        )
        if extra is not None:
            shown = type(self).model_fields[extra].alias or extra
            why = "repeats a call over HTTP" if extra == "attempts" else "is for stages that become a Service"
            raise ValueError(
                f"{shown} {why}; with colocate: true the stage is a part of orchestrate's process: "
                f"leave out {shown} or colocate"
            )

    def _check_module(self) -> None:
        """Whose code is a function of the user's, and how that is named."""
        if self.module is not None and self.kind not in {Kind.STAGE, Kind.TOOL}:
            raise ValueError(f"module is for kinds stage and tool, not {self.kind}")
        if self.module is None and self.kind is Kind.STAGE:
            raise ValueError("a stage of kind stage needs a module, such as clean:clean")
        if self.module is not None and not MODULE_REFERENCE.fullmatch(self.module):
            raise ValueError(f"module = {self.module!r}: must be MODULE:NAME, such as clean:clean")
        if self.module is not None and self.tool is not None and (self.tool.mcp or self.tool.path):
            raise ValueError("tool.mcp and tool.path are not for a tool with a module, which answers at /")

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
        if self.readiness == "port" and self.is_own_image:
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
