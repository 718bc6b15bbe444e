"""What an experiment needs to know of a function, fitted to what was measured: service time and cold start.

The service time is fitted to warm requests alone, by least squares: the time to the first token to a constant
and the prompt's tokens, the rest to the generated tokens, both lengthened by the requests that were there
already. Cold starts become a log-normal, or the measured values themselves where that does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warmpool.domain.cold_start import split_outliers
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.experiment import ServiceTime
from warmpool.experiments.replay_results import ReplayResults, RequestRecord
from warmpool.experiments.shapes import ColdStartSpec

Floats = npt.NDArray[np.float64]

LEAST_WARM: Final = 10
"""Warm requests that a service time needs."""
LEAST_STARTS: Final = 3
"""Starts that a cold start needs."""
_LOG_NORMAL: Final = 5
"""Fewer starts than this say nothing about their spread."""
_EMPIRICAL: Final = 20
"""Fewer than this are no distribution of their own."""
_KOLMOGOROV_5: Final = 1.358
"""Times 1/sqrt(n): the distance that a sample of its own distribution exceeds in one case of twenty."""
_LEAST_SIGMA: Final = 0.005
_ROUNDS: Final = 50
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class ServiceFit:
    """Service time against tokens and company.

    Attributes:
        service: as an experiment file takes it.
        slowdown: share by which each request that is there already lengthens one; None: none had company.
        requests: warm requests that it was fitted to.
        r2: share of the variance that it explains; None where nothing varied.
        median_error: median of |predicted - measured| / measured.
        p95_error: 95th percentile of the same.
        notes: what the measurements could not tell.
    """

    service: ServiceTime
    slowdown: float | None
    requests: int
    r2: float | None
    median_error: float
    p95_error: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ColdStartFit:
    """How long replicas take to start.

    Attributes:
        spec: as an experiment file takes it.
        starts: that it was fitted to.
        median_s: of them.
        p95_s: of them.
        distance: of the fitted log-normal, Kolmogorov's; None with too few starts for one.
        outliers_s: starts that were left out because they took so much longer than the others.
    """

    spec: ColdStartSpec
    starts: int
    median_s: float
    p95_s: float
    distance: float | None = None
    outliers_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PhaseFit:
    """One phase of the cold start."""

    median_s: float
    p95_s: float
    starts: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted; None where there was nothing to fit to."""

    service: ServiceFit | None = None
    cold_start: ColdStartFit | None = None
    phases: Mapping[str, PhaseFit] = field(default_factory=dict)
    concurrency: int | None = None
    """The Revision's container concurrency; None: not known."""
    gpus: int | None = None
    stop_s: float | None = None
    """Median seconds from the order to stop until a replica was gone; None: not measured."""

    def to_spec(self) -> dict[str, Any]:
        """The part of an experiment's `spec` that it settles, as a YAML file has it."""
        spec: dict[str, Any] = {}
        if self.service is not None:
            spec["service"] = _wire(self.service.service)
        replica: dict[str, Any] = {}
        if self.cold_start is not None:
            replica["coldStart"] = _wire(self.cold_start.spec)
        if self.service is not None and self.service.slowdown is not None:
            replica["slowdown"] = round(min(10.0, self.service.slowdown), 4)
        if self.stop_s is not None:
            replica["stopSeconds"] = round(self.stop_s, 3)
        if self.concurrency is not None:
            replica["concurrency"] = self.concurrency
        if self.gpus is not None:
            replica["gpus"] = self.gpus
        return spec | ({"replica": replica} if replica else {})


@dataclass(frozen=True, slots=True)
class MeasuredStart:
    """A start as it was measured elsewhere than in a replay: s, and s by phase where that is known."""

    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)


def calibrate_results(
    results: Sequence[ReplayResults],
    *,
    starts: Sequence[MeasuredStart] = (),
    least_warm: int = LEAST_WARM,
    least_starts: int = LEAST_STARTS,
) -> Calibration:
    """Fit everything that results of replays, and starts that were measured elsewhere, tell.

    Raises:
        ExperimentError: too few warm requests, and too few starts: nothing can be fitted.
    """
    requests = [request for found in results for request in found.requests]
    seconds = [taken for found in results for arm in found.arms for _, taken in arm.starts]
    if not seconds:
        seconds = [wait for found in results for wait in start_waits(found)]
    seconds += [start.seconds for start in starts]
    phases = [request.phases for request in requests if request.cold and request.phases]
    phases += [start.phases for start in starts if start.phases]
    stops = [taken for found in results for arm in found.arms for taken in arm.stops]
    headers = {(found.header.container_concurrency, found.header.gpus) for found in results}
    concurrency, gpus = headers.pop() if len(headers) == 1 else (None, None)
    known = any(found.header.service for found in results)
    warm = warm_requests(requests)
    any_known = any(request.cold is not None for request in requests)
    if len(warm) < least_warm and len(seconds) < least_starts:
        raise ExperimentError(
            f"{len(warm)} warm requests and {len(seconds)} starts: a service time needs {least_warm}, "
            f"a cold start {least_starts}; replay more of the trace"
            + ("; no request says whether it was cold" if requests and not any_known else "")
        )
    return Calibration(
        service=fit_service(warm, least=least_warm) if len(warm) >= least_warm else None,
        cold_start=fit_cold_start(seconds, least=least_starts) if len(seconds) >= least_starts else None,
        phases=fit_phases(phases),
        concurrency=concurrency if known else None,
        gpus=gpus if known else None,
        stop_s=float(np.median(stops)) if stops else None,
    )


def warm_requests(requests: Sequence[RequestRecord]) -> list[RequestRecord]:
    """The good requests that found a ready replica; one that tells nothing is not among them."""
    return [r for r in requests if r.cold is False and r.error is None and r.answered_s is not None]


def start_waits(results: ReplayResults) -> list[float]:
    """What the first request of each start waited, s: the activator's queue, or a later first token."""
    waits = []
    for name in results.names:
        warm = [r.first_token_s for r in warm_requests(results.of(name)) if r.first_token_s is not None]
        usual = float(np.median(warm)) if warm else 0.0
        until = -1.0
        for request in sorted(results.of(name), key=lambda r: r.sent_s):
            if not request.cold or request.first_token_s is None or request.sent_s < until:
                continue
            wait = request.queue_s or max(0.0, request.first_token_s - usual)
            until = request.sent_s + wait
            waits.append(wait)
    return waits


def fit_service(requests: Sequence[RequestRecord], *, least: int = LEAST_WARM) -> ServiceFit:
    """Fit the service time to warm requests.

    Raises:
        ExperimentError: there are fewer than `least`.
    """
    if len(requests) < max(1, least):
        raise ExperimentError(f"{len(requests)} warm requests: a service time needs {least}")
    whole = np.array([r.answered_s for r in requests], dtype=np.float64)
    first = np.array([r.first_token_s for r in requests], dtype=np.float64)
    prompt = np.array([np.nan if r.input_tokens is None else r.input_tokens for r in requests])
    output = np.array([np.nan if r.output_tokens is None else r.output_tokens for r in requests])
    company = np.array([r.in_flight for r in requests], dtype=np.float64)
    notes = []
    has_tokens = not np.isnan(output).any() and bool(output.any())
    if not has_tokens:
        notes.append("the answers name no generated tokens: every request gets the same service time")
    has_prompt = has_tokens and not np.isnan(prompt).any() and bool(np.ptp(prompt))
    if has_tokens and not has_prompt:
        notes.append("every prompt had the same length: its share is part of baseSeconds")
    slowdown = 0.0
    base = per_input = per_output = 0.0
    single = np.zeros(len(requests))
    for _ in range(_ROUNDS):
        longer = 1 + slowdown * company
        if has_tokens:
            base, per_input = _line(first, longer, prompt if has_prompt else None)
            per_output = max(0.0, float((whole - first) @ (longer * output) / ((longer * output) ** 2).sum()))
            single = base + per_input * np.nan_to_num(prompt) + per_output * output
        else:
            single = np.full(len(requests), float(whole @ longer / (longer @ longer)))
        weight = float(((single * company) ** 2).sum())
        following = max(0.0, float((single * company) @ (whole - single)) / weight) if weight else 0.0
        if abs(following - slowdown) < 1e-9:
            break
        slowdown = following
    if not company.any():
        notes.append("no request had company in its replica: slowdown is not known")
    predicted = single * (1 + slowdown * company)
    wrong = np.abs(predicted - whole) / np.maximum(whole, 1e-9)
    spread = float(((whole - whole.mean()) ** 2).sum())
    sigma = _sigma(whole, predicted)
    service = (
        ServiceTime(
            sigma=sigma,
            base_seconds=round(base, _DIGITS),
            input_token_seconds=round(per_input, 9),
            output_token_seconds=round(per_output, 9),
        )
        if has_tokens
        else ServiceTime(fixed_seconds=max(1e-6, round(float(single[0]), _DIGITS)), sigma=sigma)
    )
    return ServiceFit(
        service=service,
        slowdown=slowdown if company.any() else None,
        requests=len(requests),
        r2=1 - float(((whole - predicted) ** 2).sum()) / spread if spread > 0 else None,
        median_error=float(np.median(wrong)),
        p95_error=float(np.percentile(wrong, 95)),
        notes=tuple(notes),
    )


def _sigma(measured: Floats, predicted: Floats) -> float:
    """Standard deviation of the logarithm of what was measured over what was predicted."""
    ratios = np.log(np.maximum(measured, 1e-9) / np.maximum(predicted, 1e-9))
    return min(2.0, round(float(ratios.std(ddof=1)), 4)) if len(ratios) > 1 else 0.0


def _line(values: Floats, longer: Floats, tokens: Floats | None) -> tuple[float, float]:
    """Constant and slope, neither below zero."""
    constant = max(0.0, float(values @ longer / (longer @ longer)))
    if tokens is None:
        return constant, 0.0
    found, *_ = np.linalg.lstsq(np.column_stack([longer, longer * tokens]), values, rcond=None)
    base, slope = float(found[0]), float(found[1])
    if slope < 0:
        return constant, 0.0
    if base < 0:
        weighted = longer * tokens
        return 0.0, max(0.0, float(values @ weighted / (weighted @ weighted)))
    return base, slope


def fit_cold_start(seconds: Sequence[float], *, least: int = LEAST_STARTS) -> ColdStartFit:
    """Fit the start of a replica.

    Raises:
        ExperimentError: there are fewer starts than `least`.
    """
    if len(seconds) < max(1, least):
        raise ExperimentError(f"{len(seconds)} starts: a cold start needs {least}")
    usual, outliers = split_outliers(list(seconds))
    values = np.maximum(np.sort(np.array(usual, dtype=np.float64)), 1e-3)
    median, p95 = float(np.median(values)), float(np.percentile(values, 95))
    left_out = tuple(outliers)
    if len(values) < _LOG_NORMAL:
        spec = ColdStartSpec(seconds=round(median, 3))
        return ColdStartFit(spec, len(values), median, p95, outliers_s=left_out)
    logs = np.log(values)
    sigma = min(3.0, max(_LEAST_SIGMA, float(logs.std(ddof=1))))
    centre = float(np.exp(logs.mean()))
    distance = _distance(logs, float(logs.mean()), sigma)
    if len(values) >= _EMPIRICAL and distance > _KOLMOGOROV_5 / np.sqrt(len(values)):
        spec = ColdStartSpec(measured=tuple(round(float(value), 3) for value in values))
    else:
        spec = ColdStartSpec(median=round(centre, 3), sigma=round(sigma, 4))
    return ColdStartFit(spec, len(values), median, p95, distance, left_out)


def _distance(logs: Floats, mean: float, sigma: float) -> float:
    """Kolmogorov's distance of sorted logarithms from a normal distribution."""
    expected = np.array([NormalDist(mean, sigma).cdf(float(value)) for value in logs])
    count = len(logs)
    above = np.arange(1, count + 1) / count - expected
    below = expected - np.arange(count) / count
    return float(max(above.max(), below.max()))


def fit_phases(found: Sequence[Mapping[str, float]]) -> dict[str, PhaseFit]:
    """Median and 95th percentile of each phase over the starts that name it, in the order of their names."""
    names = list(dict.fromkeys(name for phases in found for name in phases))
    fits = {}
    for name in names:
        values = np.array([phases[name] for phases in found if name in phases])
        fits[name] = PhaseFit(float(np.median(values)), float(np.percentile(values, 95)), len(values))
    return fits


def comments(calibration: Calibration) -> list[str]:
    """How good the fit is, one line each."""
    lines = []
    if (service := calibration.service) is not None:
        explained = "nothing varied" if service.r2 is None else f"R2 {service.r2:.3f}"
        lines.append(
            f"service time: {service.requests} warm requests, {explained}, off by {service.median_error:.1%} "
            f"in the median, {service.p95_error:.1%} at p95"
        )
        lines.extend(f"service time: {note}" for note in service.notes)
    if (cold := calibration.cold_start) is not None:
        fit = "" if cold.distance is None else f", log-normal off by {cold.distance:.2f} (Kolmogorov)"
        lines.append(
            f"cold start: {cold.starts} starts, median {cold.median_s:.2f} s, p95 {cold.p95_s:.2f} s{fit}"
        )
        if cold.outliers_s:
            left_out = ", ".join(f"{value:.1f} s" for value in cold.outliers_s)
            lines.append(f"cold start: left out as outliers: {left_out}")
    if calibration.phases:
        parts = ", ".join(
            f"{name} {phase.median_s:.2f} s (p95 {phase.p95_s:.2f})"
            for name, phase in calibration.phases.items()
        )
        starts = max(phase.starts for phase in calibration.phases.values())
        lines.append(f"phases, median of {starts}: {parts}")
    return lines


def missing(calibration: Calibration, least_warm: int, least_starts: int) -> list[str]:
    """What could not be fitted, and why, one line each."""
    lines = []
    if calibration.service is None:
        lines.append(f"no service time: there are fewer than {least_warm} requests known to be warm")
    if calibration.cold_start is None:
        lines.append(f"no cold start: there are fewer than {least_starts} starts")
    return lines


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The fit with how good it is."""
    service, cold = calibration.service, calibration.cold_start
    return {
        "spec": calibration.to_spec(),
        "service": None
        if service is None
        else {
            name: getattr(service, name) for name in ("requests", "r2", "median_error", "p95_error", "notes")
        },
        "cold_start": None
        if cold is None
        else {
            name: getattr(cold, name) for name in ("starts", "median_s", "p95_s", "distance", "outliers_s")
        },
        "phases": {
            name: {"median_s": phase.median_s, "p95_s": phase.p95_s, "starts": phase.starts}
            for name, phase in calibration.phases.items()
        },
    }


def _wire(model: ServiceTime | ColdStartSpec) -> dict[str, Any]:
    """A model's fields as the file has them; the service time whole, so that no default sneaks in."""
    content = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(model, ServiceTime) and model.fixed_seconds is not None:
        return {"fixedSeconds": model.fixed_seconds, "sigma": model.sigma}
    if isinstance(model, ColdStartSpec):
        return {
            key: value
            for key, value in content.items()
            if value not in ([], ()) and (key != "sigma" or model.median is not None)
        }
    return content
