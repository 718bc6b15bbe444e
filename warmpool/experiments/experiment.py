"""An experiment file: a trace, a replica, prices and the arms to compare.

The file is checked whole before anything runs; every problem names its field, its value and what would be
right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from warmpool.domain.field_types import Name, Share, StrictModel
from warmpool.domain.pool import Forecast, WarmPoolTemplate
from warmpool.domain.spec_errors import describe_errors
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.generate import Generator
from warmpool.experiments.shapes import ColdStartSpec, NodesSpec, Seconds, WarmthSpec

API_VERSION: Final = "pilotlight.dev/v1alpha1"
KIND: Final = "Experiment"
_LARGEST_FILE: Final = 1 << 20
_EMPTY: Final = " must not be empty"
_GENERATOR_KIND: Final = re.compile(r"(\bgenerate)\.(?:poisson|diurnal|bursts|on-off|spikes)\b")


ComparedPolicy = Literal[
    "staffing", "erlang", "peak", "target-tracking", "histogram", "fft", "seasonal", "always-on"
]
"""Those of `policies.POLICIES` that a WarmPool does not have."""


class ServiceTime(StrictModel):
    """How long a request occupies its replica, where the trace does not say."""

    base_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.05
    input_token_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0002
    output_token_seconds: Annotated[float, Field(ge=0, le=60)] = 0.025
    fixed_seconds: Seconds | None = None
    """Every request takes this long, whatever the trace says."""
    sigma: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Standard deviation of the logarithm of what the tokens do not explain; the mean stays."""


class ReplicaSpec(StrictModel):
    """What one replica is; an arm may have another one."""

    cold_start: ColdStartSpec = ColdStartSpec(seconds=30.0)
    gpu: str | None = None
    """Its name in the price list; None: the list's default."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 1
    """GPUs of a replica; 0 for one that needs none, which costs nothing here."""
    concurrency: Annotated[int, Field(ge=0, le=1000)] = 1
    """Requests at once (`containerConcurrency`); 0: no limit."""
    slowdown: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Share by which each further request in a replica lengthens one that begins there."""
    speed: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How much faster than the trace's service times it serves: a larger GPU, a smaller model."""
    stop_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """How long its GPUs are held after the order to stop, while it ends."""
    hourly: Annotated[float, Field(ge=0, le=10_000)] | None = None
    """The price of one GPU for an hour; None: the price list's."""
    service: ServiceTime | None = None
    """Its own service times, where they are not the experiment's divided by `speed`."""
    warmth: WarmthSpec = WarmthSpec()


class FloorSpec(StrictModel):
    """What holds a floor: exactly one of them."""

    autoscaler_only: Literal[True] | None = None
    """No warm pool: Knative's autoscaler alone."""
    fixed: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """A floor that never changes, as `min-scale` in the Service."""
    pool: WarmPoolTemplate | None = None
    """A WarmPool's spec without its target."""
    forecast: Forecast | None = None
    policy: ComparedPolicy | None = None
    """A policy to compare with; its parameter is the cheapest that keeps the objective in hindsight."""
    greedy_dual: Literal[True] | None = None
    """Keep what demand has brought until another function needs the room; with `gpus`."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        names = ("autoscaler_only", "fixed", "pool", "forecast", "policy", "greedy_dual")
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(
                "must have exactly one of autoscalerOnly, fixed, pool, forecast, policy and greedyDual"
            )
        if self.pool is not None and self.pool.signals:
            raise ValueError("must have a pool without signals: a trace has no metrics to evaluate them on")
        return self


class StageSpec(StrictModel):
    """One stage of an agent."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    service: ServiceTime | None = None
    """None: the experiment's."""
    replica: ReplicaSpec | None = None
    """None: the experiment's."""


class StageOfArm(FloorSpec):
    """What an arm does differently in one stage."""

    replica: ReplicaSpec | None = None


class ArmSpec(FloorSpec):
    """One way to run the pool."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    replica: ReplicaSpec | None = None
    """Another shape of replica than the experiment's."""
    target_utilization_percentage: Annotated[int, Field(ge=1, le=100)] = 70
    """Knative's target utilisation. With a forecast in charge, 100 leaves the headroom to the forecast."""
    stages: dict[str, StageOfArm] = Field(default_factory=dict)
    """Stages whose floor or replica is not the arm's."""
    wake_ahead: bool = False
    """Whether a request to the agent wakes its later stages at once."""


class TraceSpec(StrictModel):
    """Where the requests come from: a file, relative to the experiment's own, or a generator."""

    file: str | None = None
    generate: Generator | None = None
    skip_bad_rows: bool = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.generate is None):
            raise ValueError("must have exactly one of file and generate")
        return self


def _parse_start(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be an instant such as 2026-03-02T00:00:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError("must be an instant such as 2026-03-02T00:00:00Z")  # noqa: TRY004  as above
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value


class ExperimentSpec(StrictModel):
    """Everything that an experiment needs."""

    trace: TraceSpec
    start: Annotated[datetime, BeforeValidator(_parse_start)] = datetime(2026, 3, 2, tzinfo=UTC)
    """The instant at which the trace begins, where it does not say."""
    service: ServiceTime = ServiceTime()
    replica: ReplicaSpec = ReplicaSpec()
    objective: Share = 0.01
    """The rate of cold starts that is acceptable."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    functions: Literal["together", "separate"] = "together"
    """Whether the functions of the trace share replicas, or each has its own."""
    stages: Annotated[tuple[StageSpec, ...], Field(strict=False, max_length=20)] = ()
    """Each request goes through them one after another; empty: there is one stage."""
    gpus: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """GPUs that all replicas of an arm share; None: as many as they like."""
    nodes: NodesSpec | None = None
    """Where replicas run; None: there is always room."""
    arms: Annotated[tuple[ArmSpec, ...], Field(strict=False, min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, named in (("arms", self.arms), ("stages", self.stages)):
            names = [one.name for one in named]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"must have {what} with names of their own, {twice!r} stands twice")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gpus is not None and self.nodes is not None:
            raise ValueError("must have at most one of gpus and nodes: nodes.most limits the nodes")
        for problem in _problems(self):
            raise ValueError(f"must have {problem}")
        return self


def _problems(spec: ExperimentSpec) -> Iterator[str]:
    """What the parts of an experiment say against each other."""
    names = [stage.name for stage in spec.stages]
    for index, arm in enumerate(spec.arms):
        where = f"arms[{index}]"
        for name in set(arm.stages) - set(names):
            yield f"{where}.stages among the stages ({', '.join(names) or 'there are none'}), not {name!r}"
        if arm.wake_ahead and len(names) < 2:
            yield f"two stages or more for {where}.wakeAhead"
        floors: list[tuple[str, FloorSpec]] = [(where, arm)]
        floors += [(f"{where}.stages.{name}", stage) for name, stage in arm.stages.items()]
        for place, floor in floors:
            if floor.greedy_dual and spec.gpus is None:
                yield f"gpus, the GPUs that functions share, for {place}.greedyDual"
        for stage in spec.stages or (None,):
            held = f"{where}, stage {stage.name}" if stage else where
            yield from _problems_of_shape(spec, shape_of(spec, arm, stage), floor_of(arm, stage).pool, held)


def _problems_of_shape(
    spec: ExperimentSpec, shape: ReplicaSpec, pool: WarmPoolTemplate | None, held: str
) -> Iterator[str]:
    room = spec.nodes.gpus if spec.nodes else spec.gpus
    if room is not None and shape.gpus > room:
        yield f"room for a replica of {held}: it has {shape.gpus} GPUs, there are {room}"
    if pool is None:
        return
    wanted = {entry.warmth for entry in (*pool.windows, *pool.exceptions)}
    for warmth in sorted(warmth for warmth in wanted if not shape.warmth.has(warmth)):
        yield f"replica.warmth.{warmth}.wakeSeconds: the pool of {held} keeps replicas {warmth}"


def floor_of(arm: ArmSpec, stage: StageSpec | None) -> FloorSpec:
    """What holds an arm's floor in a stage."""
    return arm if stage is None else arm.stages.get(stage.name, arm)


def shape_of(spec: ExperimentSpec, arm: ArmSpec, stage: StageSpec | None) -> ReplicaSpec:
    """An arm's replica in a stage: the arm's for that stage, the stage's, the arm's, the experiment's."""
    if stage is None:
        return arm.replica or spec.replica
    own = arm.stages.get(stage.name)
    return (own.replica if own else None) or stage.replica or arm.replica or spec.replica


class ExperimentMetadata(StrictModel):
    """The experiment's name."""

    name: Name


class Experiment(StrictModel):
    """An experiment file."""

    api_version: Annotated[Literal["pilotlight.dev/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["Experiment"]
    metadata: ExperimentMetadata
    spec: ExperimentSpec


def parse_experiment(document: object) -> Experiment:
    """An experiment from what a YAML file holds.

    Raises:
        ExperimentError: one line for each problem.
    """
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        problems = [_plain(problem) for problem in describe_errors(error, "experiment")]
        told = [
            problem
            for problem in problems
            # A list whose items are all wrong is not empty.
            if not problem.endswith(_EMPTY)
            or not any(other.startswith(problem.removesuffix(_EMPTY) + "[") for other in problems)
        ]
        raise ExperimentError("\n".join(told)) from None


def _plain(problem: str) -> str:
    """A problem in this file's terms: the kind of a generator is no field, and fields are not a pool's."""
    problem = _GENERATOR_KIND.sub(r"\1", problem.removeprefix("experiment."))
    return problem.replace("is not a field of a warm pool", "is not a known field here")


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file; a trace file in it becomes relative to the working directory.

    Raises:
        ExperimentError: the file cannot be read, or is not an experiment; each line names the file.
    """
    document = _read_yaml(path)
    try:
        experiment = parse_experiment(document)
    except ExperimentError as error:
        lines = str(error).splitlines()
        raise ExperimentError("\n".join(f"{path}: {line}" for line in lines)) from None
    trace = experiment.spec.trace
    if trace.file is None:
        return experiment
    located = trace.model_copy(update={"file": str(path.parent / Path(trace.file).expanduser())})
    spec = experiment.spec.model_copy(update={"trace": located})
    return experiment.model_copy(update={"spec": spec})


def read_model(path: Path) -> tuple[ServiceTime, ReplicaSpec]:
    """Service time and replica of a file as `experiment calibrate` prints it: a part of an experiment's spec.

    Raises:
        ExperimentError: it cannot be read, or has something else in it.
    """
    document = _read_yaml(path)
    if not isinstance(document, dict) or not document or not set(document) <= {"service", "replica"}:
        raise ExperimentError(f"{path}: must have `service`, `replica`, or both, as `calibrate` prints them")
    stand_in = {"trace": {"file": "none"}, "arms": [{"name": "none", "autoscalerOnly": True}]}
    try:
        spec = parse_experiment(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": "calibration"},
                "spec": document | stand_in,
            }
        ).spec
    except ExperimentError as error:
        lines = str(error).splitlines()
        raise ExperimentError(
            "\n".join(f"{path}: {line.replace('spec.', '', 1)}" for line in lines)
        ) from None
    return spec.service, spec.replica


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ExperimentError(f"{path}: is larger than {_LARGEST_FILE:,} bytes")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: is not YAML: {error}") from error
