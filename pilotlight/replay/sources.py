"""What a replay's commands read: traces, experiment files, histories, and what the simulation is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilotlight.replay.arms import ReplayArm, arm_of
from warmpool.adapters.history_database import read_cold_starts
from warmpool.domain.cost import PriceList
from warmpool.experiments import calibrate as calibrating
from warmpool.experiments import run as running
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.experiment import (
    Experiment,
    ReplicaSpec,
    ServiceTime,
    read_experiment,
)
from warmpool.experiments.formats import read_trace
from warmpool.experiments.replay_report import ModelUsed
from warmpool.experiments.replay_results import ReplayResults
from warmpool.experiments.shapes import ColdStartSpec
from warmpool.experiments.trace import Trace

_EXPERIMENT_FILES: Final = {".yaml", ".yml"}


@dataclass(frozen=True, slots=True)
class Source:
    """What is replayed.

    Attributes:
        trace: the requests.
        arms: of the experiment; None: the pool off and on, as it is.
        experiment: whose file it is; None for a trace alone.
    """

    trace: Trace
    arms: tuple[ReplayArm, ...] | None
    experiment: Experiment | None


def read_source(
    file: Path, prices: PriceList, *, only: Sequence[str], skip_bad_rows: bool, seed: int
) -> Source:
    """A trace file, or an experiment file with its trace and the arms that are named.

    Raises:
        ExperimentError, TraceError: the file cannot be used.
    """
    if file.suffix not in _EXPERIMENT_FILES:
        return Source(read_trace(file, seed=seed, skip_bad_rows=skip_bad_rows), None, None)
    experiment = read_experiment(file)
    prepared = running.prepare(experiment, prices)
    known = [arm.name for arm in experiment.spec.arms]
    if unknown := [name for name in only if name not in known]:
        raise ExperimentError(f"--arm {unknown[0]!r}: must be one of {', '.join(map(repr, known))}")
    arms = tuple(arm_of(arm) for arm in experiment.spec.arms if not only or arm.name in only)
    return Source(prepared.trace, arms, experiment)


def model_used(
    results: ReplayResults, source: Source, given: tuple[ServiceTime, ReplicaSpec, str] | None
) -> ModelUsed | None:
    """What the simulation is told: a calibration, the experiment file, or a fit to this very replay.

    None where nothing can be fitted.
    """
    shape = ReplicaSpec() if source.experiment is None else source.experiment.spec.replica
    if given is not None:
        service, replica, path = given
        kept = {"hourly": shape.hourly, "gpu": shape.gpu}
        known = {name: value for name, value in kept.items() if value is not None}
        return ModelUsed(service, replica.model_copy(update=known), path)
    if source.experiment is not None:
        return ModelUsed(source.experiment.spec.service, shape, "the experiment file")
    try:
        found = calibrating.calibrate_results([results], least_starts=1)
    except ExperimentError:
        return None
    if found.service is None:
        return None
    # A replay without a start needs none in its simulation, either.
    start = found.cold_start.spec if found.cold_start is not None else ColdStartSpec(seconds=1.0)
    fitted = {
        "cold_start": start,
        "slowdown": found.service.slowdown or 0.0,
        "stop_seconds": found.stop_s or 0.0,
    }
    replica = shape.model_copy(update=fitted)
    return ModelUsed(
        found.service.service, replica, "a fit to this very replay", tuple(calibrating.comments(found))
    )


def cold_starts_of(histories: Sequence[Path], service: str | None) -> list[calibrating.MeasuredStart]:
    """The cold starts of a Service in histories of the controller.

    Raises:
        ExperimentError: no Service is named, or a file cannot be read.
    """
    found: list[calibrating.MeasuredStart] = []
    for path in histories:
        if service is None:
            raise ExperimentError(f"{path}: --service NAMESPACE/NAME must say whose cold starts are meant")
        namespace, _, name = service.rpartition("/")
        try:
            starts = read_cold_starts(path, (namespace or "default", name))
        except OSError as error:
            raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from error
        found.extend(calibrating.MeasuredStart(start.seconds, start.phases) for start in starts)
    return found
