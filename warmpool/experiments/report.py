"""A report of an experiment: one HTML file that needs nothing else, JSON, CSV, and a PNG of each picture."""

from __future__ import annotations

import csv
import html
import io
import json
from pathlib import Path
from typing import Any, Final

import yaml

from warmpool.experiments import tables
from warmpool.experiments.figures import PICTURES
from warmpool.experiments.html_page import page, write_files
from warmpool.experiments.result import Result
from warmpool.experiments.run import ArmResult, ExperimentReport
from warmpool.experiments.tables import Row

_DIGITS: Final = 6


def rows(report: ExperimentReport) -> list[Row]:
    """The arms in figures, in their order."""
    first = {kind: next((arm for arm in report.arms if arm.kind == kind), None) for kind in ("fixed", "off")}
    return [_row(report, arm, first["fixed"], first["off"]) for arm in report.arms]


def _row(report: ExperimentReport, arm: ArmResult, always: ArmResult | None, off: ArmResult | None) -> Row:
    result = arm.result
    saved_always, removed_always = _saved(result, always)
    saved_off, removed_off = _saved(result, off)
    idle = result.idle_by_warmth
    return Row(
        arm=arm.name,
        requests=len(result.cold),
        cold_rate=round(result.cold_rate, _DIGITS),
        woke_rate=round(result.woke_rate, _DIGITS),
        wait_p50_s=result.percentile(result.waited_s, 50),
        wait_p95_s=result.percentile(result.waited_s, 95),
        wait_p99_s=result.percentile(result.waited_s, 99),
        ttft_p50_s=result.percentile(result.first_token_s, 50),
        ttft_p95_s=result.percentile(result.first_token_s, 95),
        ttft_p99_s=result.percentile(result.first_token_s, 99),
        gpu_s=round(result.gpu_s, 3),
        busy_gpu_s=round(result.busy_gpu_s, 3),
        waking_gpu_s=round(result.waking_gpu_s, 3),
        idle_hot_gpu_s=round(idle["hot"], 3),
        asleep_gpu_s=round(idle["asleep"], 3),
        standby_gpu_s=round(idle["standby"], 3),
        starting_gpu_s=round(result.starting_gpu_s, 3),
        unused_gpu_s=round(result.unused_gpu_s, 3),
        starts=result.starts,
        floor_changes=result.floor_changes,
        cost=round(result.cost, _DIGITS),
        lost=result.lost,
        over_bound=round(result.gpu_s / report.bound_gpu_s, 4) if report.bound_gpu_s else None,
        gpu_hours_saved_always_on=saved_always,
        waste_removed_always_on=removed_always,
        gpu_hours_saved_pool_off=saved_off,
        waste_removed_pool_off=removed_off,
    )


def _saved(result: Result, other: ArmResult | None) -> tuple[float | None, float | None]:
    """GPU-hours saved against another arm, and the share of its waste that is removed."""
    if other is None:
        return None, None
    waste = other.result.wasted_gpu_s
    removed = 1 - result.wasted_gpu_s / waste if waste else None
    return (
        round((other.result.gpu_s - result.gpu_s) / 3600, 4),
        None if removed is None else round(removed, 4),
    )


def best(report: ExperimentReport) -> str | None:
    """The cheapest arm that keeps the objective; None where none does."""
    kept = [arm for arm in report.arms if arm.result.cold_rate <= report.objective]
    return min(kept, key=lambda arm: arm.result.cost).name if kept else None


def to_json(report: ExperimentReport) -> dict[str, Any]:
    """The report as JSON: the same figures as the page."""
    return {
        "experiment": report.name,
        "start": report.start.isoformat(),
        "duration_s": report.duration_s,
        "requests": report.requests,
        "skipped_rows": report.skipped_rows,
        "objective": {"cold_start_rate": report.objective},
        "bound_gpu_s": report.bound_gpu_s,
        "currency": report.currency,
        "complete": report.complete,
        "best": best(report),
        "settings": dict(report.settings),
        "arms": [
            {name: getattr(row, name) for name in Row.__slots__}
            | ({"functions": [_part(one) for one in arm.functions]} if arm.functions else {})
            | ({"stages": [_part(one) for one in arm.stages]} if arm.stages else {})
            for row, arm in zip(rows(report), report.arms, strict=True)
        ],
    }


def _part(result: Result) -> dict[str, Any]:
    """A function or a stage of an arm."""
    return {
        "name": result.name,
        "requests": len(result.cold),
        "cold_rate": round(result.cold_rate, _DIGITS),
        "woke_rate": round(result.woke_rate, _DIGITS),
        "wait_p95_s": result.percentile(result.waited_s, 95),
        "gpu_s": round(result.gpu_s, 3),
        "busy_gpu_s": round(result.busy_gpu_s, 3),
        "cost": round(result.cost, _DIGITS),
        "lost": result.lost,
    }


def to_csv(report: ExperimentReport) -> str:
    """The arms as CSV, a header first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row.__slots__)
    for row in rows(report):
        writer.writerow(["" if (value := getattr(row, name)) is None else value for name in Row.__slots__])
    return text.getvalue()


def to_html(report: ExperimentReport) -> str:
    """The report as one page without links to anything outside it."""
    figures = "".join(
        f'<h2>{picture.title}</h2><figure><div class="scroll" role="region" aria-label="{picture.title}" '
        f'tabindex="0">{picture.svg(report)}</div><figcaption>{picture.description}.</figcaption></figure>'
        for picture in PICTURES
    )
    incomplete = (
        "" if report.complete else "<p><strong>The run was interrupted: not every arm is here.</strong></p>"
    )
    skipped = f" {report.skipped_rows:,} rows of the trace could not be read." if report.skipped_rows else ""
    figures_as_json = html.escape(json.dumps(to_json(report), indent=2))
    settings = html.escape(yaml.safe_dump(dict(report.settings), sort_keys=False, allow_unicode=True))
    return page(
        report.name,
        f"<h1>{html.escape(report.name)}</h1>"
        f'<p class="dim">{report.requests:,} requests in {report.duration_s / 3600:,.1f} hours from '
        f"{report.start:%Y-%m-%d %H:%M} UTC.{skipped}</p>{incomplete}<p>{_verdict(report)}</p>"
        f"{tables.arms(rows(report), report.currency, best(report))}{figures}"
        f"{tables.gpu_hours(rows(report))}"
        f"{tables.parts('By stage', report.currency, [(arm.name, arm.stages) for arm in report.arms])}"
        f"{tables.parts('By function', report.currency, [(arm.name, arm.functions) for arm in report.arms])}"
        f"<details><summary>Settings</summary><pre>{settings}</pre></details>"
        f"<details><summary>All figures as JSON</summary><pre>{figures_as_json}</pre></details>",
    )


def _verdict(report: ExperimentReport) -> str:
    name = best(report)
    goal = f"at most {report.objective:.3g} of the requests cold".replace(
        f"{report.objective:.3g}", f"{report.objective:.2%}"
    )
    if name is None:
        return f"No arm keeps the objective, {goal}."
    return f"Cheapest with {goal}: <strong>{html.escape(name)}</strong>."


def write(report: ExperimentReport, folder: Path) -> list[Path]:
    """Write `report.html`, `report.json`, `report.csv` and the pictures; returns the files.

    Raises:
        OSError: the folder cannot be written.
    """
    contents: dict[str, bytes] = {
        "report.html": to_html(report).encode(),
        "report.json": (json.dumps(to_json(report), indent=2) + "\n").encode(),
        "report.csv": to_csv(report).encode(),
    }
    contents |= {f"{picture.name}.png": picture.png(report) for picture in PICTURES}
    return write_files(folder, contents)
