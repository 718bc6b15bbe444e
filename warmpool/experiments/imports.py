"""What a user has today, as a WarmPool: a KEDA ScaledObject with cron triggers, a CronHPA, a fixed min-scale.

Sources: KEDA's cron scaler (`timezone`, `start`, `end`, `desiredReplicas`), the CronHorizontalPodAutoscaler
of kubernetes-cronhpa-controller (`jobs` with six-field `schedule` and `targetSize`), Knative's annotation
`min-scale`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cronsim import CronSim, CronSimError

from knative.autoscaling.annotations import MIN_SCALE
from warmpool.domain.duration import format_duration
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.domain.spec_errors import SpecError
from warmpool.experiments.errors import ExperimentError

_FIRINGS: Final = 20
"""So many firings of a start are compared with the ends after them."""
_PROBE: Final = datetime(2026, 3, 1)  # noqa: DTZ001 - a local time: cron expressions follow the wall clock


@dataclass(frozen=True, slots=True)
class Imported:
    """A WarmPool's spec, the target that was named, and what could not be taken over."""

    spec: WarmPoolTemplate
    target: str
    notes: tuple[str, ...]


def import_pool(obj: object) -> Imported:
    """The WarmPool that holds what an object of another kind holds.

    Raises:
        ExperimentError: the object is of another kind, or its schedule cannot be said by windows.
    """
    if not isinstance(obj, Mapping):
        raise ExperimentError("must be a Kubernetes object")
    kind = obj.get("kind")
    try:
        match kind:
            case "ScaledObject":
                return _scaled_object(obj)
            case "CronHorizontalPodAutoscaler":
                return _cron_hpa(obj)
            case "Service" | "Configuration" | "Revision":
                return _min_scale(obj)
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        if isinstance(problem, ExperimentError):
            raise
        raise ExperimentError(f"{kind}: {problem!r} is missing or of another type") from problem
    raise ExperimentError(
        f"kind = {kind!r}, must be ScaledObject (KEDA), CronHorizontalPodAutoscaler or a Knative Service"
    )


def _scaled_object(obj: Mapping[str, Any]) -> Imported:
    spec = obj["spec"]
    notes: list[str] = []
    windows, zones = [], []
    for index, trigger in enumerate(spec.get("triggers") or ()):
        if trigger["type"] != "cron":
            notes.append(f"spec.triggers[{index}]: type {trigger['type']} follows demand and is left out")
            continue
        meta = trigger["metadata"]
        zones.append(str(meta["timezone"]))
        windows.append(
            {
                "name": f"cron-{index}",
                "cron": str(meta["start"]),
                "duration": format_duration(_until(str(meta["start"]), [str(meta["end"])], index)),
                "replicas": int(meta["desiredReplicas"]),
            }
        )
    if not windows:
        raise ExperimentError("spec.triggers: must have at least one trigger of type cron")
    if len(set(zones)) > 1:
        raise ExperimentError(f"spec.triggers: time zones {', '.join(sorted(set(zones)))}, must be one")
    if int(spec.get("cooldownPeriod", 300)) != 0:
        notes.append(
            "spec.cooldownPeriod: Knative's scale-down-delay is set on the Service, not in a WarmPool"
        )
    least = int(spec.get("minReplicaCount", 0))
    return _imported(zones[0], windows, least, str(spec["scaleTargetRef"]["name"]), notes)


def _cron_hpa(obj: Mapping[str, Any]) -> Imported:
    spec = obj["spec"]
    jobs = spec["jobs"]
    notes: list[str] = []
    schedules = [_five_fields(str(job["schedule"]), index, notes) for index, job in enumerate(jobs)]
    windows = [
        {
            "name": f"job-{index}",
            "cron": schedules[index],
            "duration": format_duration(
                _until(schedules[index], [other for at, other in enumerate(schedules) if at != index], index)
            ),
            "replicas": int(job["targetSize"]),
        }
        for index, job in enumerate(jobs)
        if int(job["targetSize"]) > 0
    ]
    if not windows:
        raise ExperimentError("spec.jobs: must have at least one job with a targetSize above 0")
    notes.append("a CronHPA follows the clock of its controller: UTC is taken; set timeZone if it is another")
    return _imported("UTC", windows, 0, str(spec["scaleTargetRef"]["name"]), notes)


def _min_scale(obj: Mapping[str, Any]) -> Imported:
    meta = obj["metadata"]
    template = (obj.get("spec") or {}).get("template") or {}
    found = (template.get("metadata") or {}).get("annotations") or meta.get("annotations") or {}
    text = str(found.get(MIN_SCALE, ""))
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) == 0:
        raise ExperimentError(f"{MIN_SCALE} = {text!r}, must be a whole number above 0 to be taken over")
    note = f"remove {MIN_SCALE} from the Service: a pool lowers no floor of the user's own"
    return _imported("UTC", [], int(text), str(meta["name"]), [note])


def _imported(
    zone: str, windows: Sequence[Mapping[str, Any]], least: int, target: str, notes: Sequence[str]
) -> Imported:
    content: dict[str, Any] = {"timeZone": zone, "windows": list(windows)}
    if least:
        content["limits"] = {"min": least}
    try:
        spec = WarmPoolTemplate.model_validate(content)
    except ValueError as error:
        problems = SpecError([line.strip() for line in str(error).splitlines()[1:3]])
        raise ExperimentError(f"cannot be said by a WarmPool: {problems}") from error
    return Imported(spec, target, tuple(notes))


def _five_fields(schedule: str, index: int, notes: list[str]) -> str:
    fields = schedule.split()
    if len(fields) == 5:
        return schedule
    if len(fields) != 6:
        raise ExperimentError(f"spec.jobs[{index}].schedule = {schedule!r}, must have six cron fields")
    if fields[0] not in {"0", "00"}:
        notes.append(f"spec.jobs[{index}].schedule: its seconds are left out")
    return " ".join(fields[1:])


def _until(start: str, ends: Sequence[str], index: int) -> timedelta:
    """The time from each firing of `start` to the next of any end, if it is always the same."""
    try:
        starts = CronSim(start, _PROBE)
        found = set()
        for _ in range(_FIRINGS):
            opened = next(starts)
            found.add(min(next(CronSim(end, opened)) for end in ends) - opened)
    except (CronSimError, StopIteration, ValueError) as problem:
        raise ExperimentError(f"entry {index}: {start!r} to {', '.join(ends)}: {problem}") from problem
    if len(found) != 1:
        spans = ", ".join(format_duration(span) for span in sorted(found))
        raise ExperimentError(
            f"entry {index}: from {start!r} to its end are {spans} by turns; write a window for each"
        )
    return found.pop()
