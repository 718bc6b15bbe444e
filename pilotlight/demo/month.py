"""A month of the example's traffic at the demo's own measurements: what each way to run the pool would cost.

Two arms of forty seconds differ by the start of one replica, which says nothing about a bill. What they
measure (how long a cold start takes, how long a request runs) is what the simulator needs to tell the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pilotlight.agent import Agent
from pilotlight.demo.report import DemoReport, Price
from pilotlight.stage_spec import Kind
from warmpool.adapters.price_file import packaged_prices
from warmpool.domain.pool import WarmPoolTemplate
from warmpool.experiments.calibrate import calibrate_results
from warmpool.experiments.cold_start import Constant
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.experiment import ArmSpec, Experiment, parse_experiment
from warmpool.experiments.generate import generate
from warmpool.experiments.recommend import Objective, recommend
from warmpool.experiments.replay_results import ReplayHeader, ReplayResults, RequestRecord
from warmpool.experiments.report import write
from warmpool.experiments.run import ArmResult, prepare, run
from warmpool.experiments.simulator import Load, Replica

PEAK: Final = 0.02
"""Requests per second in the busiest hour of a working day: one in fifty seconds."""
OBJECTIVE: Final = 0.02
_MONDAY: Final = datetime(2026, 3, 2, tzinfo=UTC)
_WEEK: Final = timedelta(days=7)
_DAYS: Final = 30
_LEARNING_WEEKS: Final = 3


@dataclass(frozen=True, slots=True)
class MonthRow:
    """One way to run the pool, for thirty days."""

    name: str
    cost: float
    cold_starts: int
    """Requests that waited for a start."""
    requests: int
    worst_wait_s: float


@dataclass(frozen=True, slots=True)
class Month:
    """The comparison, what it rests on, and where its pictures are."""

    rows: tuple[MonthRow, ...]
    cold_start_s: float
    service_s: float
    recommended: WarmPoolTemplate | None
    page: Path

    def to_json(self) -> dict[str, Any]:
        """The content of `month` in `report.json`."""
        return {
            "cold_start_s": round(self.cold_start_s, 3),
            "service_s": round(self.service_s, 3),
            "recommended": None if self.recommended is None else self.recommended.to_wire(),
            "rows": [
                {
                    "name": row.name,
                    "cost": round(row.cost, 2),
                    "cold_starts": row.cold_starts,
                    "requests": row.requests,
                    "worst_wait_s": round(row.worst_wait_s, 3),
                }
                for row in self.rows
            ],
        }


def price_a_month(report: DemoReport, agent: Agent, folder: Path) -> Month | None:
    """Simulate a week with what the demo measured, and price thirty days of it.

    Returns None when the demo measured no cold start or no warm request: there is nothing to go by.
    """
    measured = _calibrate(report)
    if measured is None:
        return None
    cold_start_s, service_s = measured
    experiment = _experiment(report.price, agent, cold_start_s, service_s)
    recommended = _recommended(experiment, report.price, cold_start_s, service_s)
    if recommended is not None:
        arms = (*experiment.spec.arms, ArmSpec(name="recommended", pool=recommended))
        spec = experiment.spec.model_copy(update={"arms": arms})
        experiment = experiment.model_copy(update={"spec": spec})
    found = run(prepare(experiment, packaged_prices()))
    page = write(found, folder)[0]
    share = _DAYS / (found.duration_s / 86_400)
    rows = tuple(_row(arm, share) for arm in found.arms)
    return Month(rows, cold_start_s, service_s, recommended, page)


def _calibrate(report: DemoReport) -> tuple[float, float] | None:
    """Seconds of a cold start and of a request, fitted as a replay's; None where there was none of either.

    The tokens are left out: the requests of the month are those of the demo, not longer or shorter ones.
    """
    records = tuple(
        RequestRecord(
            arm=arm.name,
            index=index,
            scheduled_s=request.at_s,
            sent_s=request.at_s,
            ttft_s=request.ttft_s,
            e2e_s=request.e2e_s,
            cold=request.cold if request.error is None else None,
            phases=request.phases,
            error=request.error,
        )
        for arm in report.arms
        for index, request in enumerate(arm.requests)
    )
    header = ReplayHeader("", None, "the demo", 1.0, len(records), datetime.now(UTC))
    try:
        found = calibrate_results([ReplayResults(header, (), records)], least_warm=1, least_starts=1)
    except ExperimentError:
        return None
    if found.service is None or found.cold_start is None or found.service.service.fixed_seconds is None:
        return None
    return found.cold_start.median_s, found.service.service.fixed_seconds


def show_month(month: Month, price: Price, console: Console) -> None:
    """Print the comparison."""
    table = Table(
        title="What a month of it would cost",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    for heading in ("", f"{price.currency} a month", "requests", "cold starts", "worst wait"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in month.rows:
        table.add_row(
            row.name,
            f"{row.cost:,.2f}",
            f"{row.requests:,}",
            f"{row.cold_starts:,}",
            f"{row.worst_wait_s:.1f} s",
        )
    console.print(Group(Text(), table))
    console.print(
        f"  (simulated: a working day's traffic of one request in {1 / PEAK:.0f} s at its peak, "
        f"{month.cold_start_s:.1f} s to start and {month.service_s:.2f} s a request as measured above; "
        f"recommended: {_in_words(month.recommended)})",
        style="dim",
    )
    console.print(f"  pictures: {month.page}", style="dim", soft_wrap=True)


def _in_words(pool: WarmPoolTemplate | None) -> str:
    if pool is None:
        return "no pool"
    content = pool.to_wire()
    parts = []
    for window in content.get("windows", ()):
        days = window["days"]
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        parts.append(f"{window['replicas']} hot {span} {window['from']} to {window['to']}")
    if "keepAlive" in content:
        parts.append(f"kept {content['keepAlive']} after the last request")
    return ", ".join(parts) or "no pool"


def _row(arm: ArmResult, share: float) -> MonthRow:
    result = arm.result
    return MonthRow(
        arm.name,
        result.cost * share,
        round(float(result.cold.sum()) * share),
        round(len(result.cold) * share),
        float(result.waited_s.max()),
    )


def _experiment(price: Price, agent: Agent, cold_start_s: float, service_s: float) -> Experiment:
    model = next(stage for stage in agent.spec.services if stage.kind is Kind.GENERATE)
    pool = agent.pool(model)
    arms: list[dict[str, Any]] = [
        {"name": "pool off", "autoscalerOnly": True},
        {"name": "always on", "fixed": 1},
    ]
    if pool is not None and pool.windows:
        arms.insert(1, {"name": "the agent file's windows", "pool": pool.to_wire()})
    return parse_experiment(
        {
            "apiVersion": "pilotlight.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": "a-week-of-the-example"},
            "spec": {
                "trace": {"generate": {"kind": "diurnal", "duration": "7d", "peak": PEAK}},
                "start": _MONDAY.isoformat(),
                "service": {"fixedSeconds": service_s},
                "replica": {
                    "coldStart": {"seconds": cold_start_s},
                    "hourly": price.per_hour,
                    "concurrency": model.scaling.container_concurrency or 100,
                },
                "objective": OBJECTIVE,
                "arms": arms,
            },
        }
    )


def _recommended(
    experiment: Experiment, price: Price, cold_start_s: float, service_s: float
) -> WarmPoolTemplate | None:
    """The WarmPool that three earlier weeks of such traffic suggest."""
    generator = experiment.spec.trace.generate
    assert generator is not None
    weeks = generator.model_copy(update={"duration": _WEEK * _LEARNING_WEEKS})
    start = _MONDAY - _WEEK * _LEARNING_WEEKS
    past = generate(weeks, start, seed=1)
    load = Load("demo", past.arrivals, np.full(len(past), service_s), np.full(len(past), service_s))
    replica = Replica(
        cold_starts=Constant(cold_start_s),
        concurrency=experiment.spec.replica.concurrency,
        hourly=price.per_hour,
    )
    return recommend(
        load,
        replica,
        start=past.start or start,
        time_zone="UTC",
        objective=Objective(cold_start_rate=OBJECTIVE),
        currency=price.currency,
    ).spec
