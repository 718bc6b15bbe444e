"""An experiment file: a trace, a replica, prices and the arms to compare.

The file is checked whole before anything runs; every problem names its field, its value and what would be
right.
"""

from __future__ import annotations

import re
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

API_VERSION: Final = "pilotlight.dev/v1alpha1"
KIND: Final = "Experiment"
_LARGEST_FILE: Final = 1 << 20
_GENERATOR_KIND: Final = re.compile(r"(\bgenerate)\.(?:poisson|diurnal|bursts|on-off|spikes)\b")


Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ServiceTime(StrictModel):
    """How long a request occupies its replica, where the trace does not say."""

    base_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.05
    input_token_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0002
    output_token_seconds: Annotated[float, Field(ge=0, le=60)] = 0.025
    fixed_seconds: Seconds | None = None
    """Every request takes this long, whatever the trace says."""


class ColdStartSpec(StrictModel):
    """How long a replica takes to start: a constant, a log-normal, or measured values to draw from."""

    seconds: Seconds | None = None
    median: Seconds | None = None
    sigma: Annotated[float, Field(gt=0, le=3)] = 0.25
    """Standard deviation of the logarithm, with `median`."""
    measured: Annotated[tuple[Seconds, ...], Field(strict=False, max_length=100_000)] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.seconds is not None, self.median is not None, bool(self.measured)]
        if sum(given) != 1:
            raise ValueError("must have exactly one of seconds, median and measured")
        return self


class ReplicaSpec(StrictModel):
    """What one replica is; an arm may have another one."""

    cold_start: ColdStartSpec = ColdStartSpec(seconds=30.0)
    gpu: str | None = None
    """Its name in the price list; None: the list's default."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    concurrency: Annotated[int, Field(ge=0, le=1000)] = 1
    """Requests at once (`containerConcurrency`); 0: no limit."""
    slowdown: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Share by which each further request in a replica lengthens one that begins there."""
    speed: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How much faster than the trace's service times it serves: a larger GPU, a smaller model."""
    hourly: Annotated[float, Field(ge=0, le=10_000)] | None = None
    """The price of one GPU for an hour; None: the price list's."""


class ArmSpec(StrictModel):
    """One way to run the pool: exactly one of `autoscalerOnly`, `fixed`, `pool` and `forecast`."""

    name: Annotated[str, Field(min_length=1, max_length=60)]
    autoscaler_only: Literal[True] | None = None
    """No warm pool: Knative's autoscaler alone."""
    fixed: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """A floor that never changes, as `min-scale` in the Service."""
    pool: WarmPoolTemplate | None = None
    """A WarmPool's spec without its target."""
    forecast: Forecast | None = None
    replica: ReplicaSpec | None = None
    """Another shape of replica than the experiment's."""
    target_utilization_percentage: Annotated[int, Field(ge=1, le=100)] = 70
    """Knative's target utilisation. With a forecast in charge, 100 leaves the headroom to the forecast."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [
            value
            for value in (self.autoscaler_only, self.fixed, self.pool, self.forecast)
            if value is not None
        ]
        if len(given) != 1:
            raise ValueError("must have exactly one of autoscalerOnly, fixed, pool and forecast")
        if self.pool is not None and self.pool.signals:
            raise ValueError("must have a pool without signals: a trace has no metrics to evaluate them on")
        return self


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
    if isinstance(value, datetime) and value.tzinfo is None:
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
    arms: Annotated[tuple[ArmSpec, ...], Field(strict=False, min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"must have arms with names of their own, {name!r} stands twice")
        return self


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
        raise ExperimentError("\n".join(map(_plain, describe_errors(error, "experiment")))) from None


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
