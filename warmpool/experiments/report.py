"""A report of an experiment: one HTML file that needs nothing else, JSON, CSV, and a PNG of each picture."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warmpool.experiments.figures import PICTURES
from warmpool.experiments.run import ArmResult, ExperimentReport

_DIGITS: Final = 6
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#111827;--dim:#6b7280;--line:#e5e7eb;--page:#fff;--best:#dcfce7}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--dim:#9ca3af;--line:#374151;--page:#111827;--best:#14532d}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);margin:0 auto;max-width:60rem;
padding:1rem}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p.dim,figcaption{color:var(--dim)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}tr.best td{background:var(--best)}
figure{margin:0}figure svg{width:100%;height:auto;background:#fff;border-radius:.4rem}
a:focus,summary:focus{outline:2px solid #2563eb}pre{overflow-x:auto;font-size:.85rem}
@media print{body{max-width:none}details{display:block}figure{break-inside:avoid}}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One arm in figures; seconds, GPU-seconds and money. None where it cannot be told."""

    arm: str
    requests: int
    cold_rate: float
    wait_p95_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    gpu_s: float
    busy_gpu_s: float
    idle_gpu_s: float
    starting_gpu_s: float
    starts: int
    floor_changes: int
    cost: float
    lost: int
    over_bound: float | None
    """GPU-seconds over the clairvoyant bound."""
    gpu_hours_saved: float | None
    """Against the first arm with a fixed floor."""
    waste_removed: float | None
    """The share of that arm's idle and starting GPU-seconds that this one does without."""


def rows(report: ExperimentReport) -> list[Row]:
    """The arms in figures, in their order."""
    always = next(
        (arm for arm in report.arms if arm.result.floor_changes == 1 and arm.result.floor[0, 0] == 0), None
    )
    return [_row(report, arm, always) for arm in report.arms]


def _row(report: ExperimentReport, arm: ArmResult, always: ArmResult | None) -> Row:
    result = arm.result
    saved = removed = None
    if always is not None:
        saved = (always.result.gpu_s - result.gpu_s) / 3600
        waste = always.result.idle_gpu_s + always.result.starting_gpu_s
        removed = 1 - (result.idle_gpu_s + result.starting_gpu_s) / waste if waste else None
    return Row(
        arm=arm.name,
        requests=len(result.cold),
        cold_rate=round(result.cold_rate, _DIGITS),
        wait_p95_s=result.percentile(result.waited_s, 95),
        ttft_p50_s=result.percentile(result.first_token_s, 50),
        ttft_p95_s=result.percentile(result.first_token_s, 95),
        ttft_p99_s=result.percentile(result.first_token_s, 99),
        gpu_s=round(result.gpu_s, 3),
        busy_gpu_s=round(result.busy_gpu_s, 3),
        idle_gpu_s=round(result.idle_gpu_s, 3),
        starting_gpu_s=round(result.starting_gpu_s, 3),
        starts=result.starts,
        floor_changes=result.floor_changes,
        cost=round(result.cost, _DIGITS),
        lost=result.lost,
        over_bound=round(result.gpu_s / report.bound_gpu_s, 4) if report.bound_gpu_s else None,
        gpu_hours_saved=None if saved is None else round(saved, 4),
        waste_removed=None if removed is None else round(removed, 4),
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
        "arms": [{name: getattr(row, name) for name in Row.__slots__} for row in rows(report)],
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
    cells = "".join(_html_row(report, row) for row in rows(report))
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in (
            "arm",
            "cold",
            "wait p95",
            "TTFT p50",
            "p95",
            "p99",
            "GPU-hours",
            "over bound",
            f"cost {report.currency}",
        )
    )
    figures = "".join(
        f"<h2>{picture.title}</h2><figure>{picture.svg(report)}<figcaption>{picture.description}.</figcaption></figure>"
        for picture in PICTURES
    )
    incomplete = (
        "" if report.complete else "<p><strong>The run was interrupted: not every arm is here.</strong></p>"
    )
    skipped = f" {report.skipped_rows:,} rows of the trace could not be read." if report.skipped_rows else ""
    settings = html.escape(json.dumps(to_json(report), indent=2))
    return page(
        report.name,
        f"<h1>{html.escape(report.name)}</h1>"
        f'<p class="dim">{report.requests:,} requests in {report.duration_s / 3600:,.1f} hours from '
        f"{report.start:%Y-%m-%d %H:%M} UTC.{skipped}</p>{incomplete}<p>{_verdict(report)}</p>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></div>'
        f"{figures}<details><summary>All figures as JSON</summary><pre>{settings}</pre></details>",
    )


def page(title: str, body: str) -> str:
    """A page of a report around its body."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"{body}</main></body></html>\n"
    )


def _verdict(report: ExperimentReport) -> str:
    name = best(report)
    goal = f"at most {report.objective:.3g} of the requests cold".replace(
        f"{report.objective:.3g}", f"{report.objective:.2%}"
    )
    if name is None:
        return f"No arm keeps the objective, {goal}."
    return f"Cheapest with {goal}: <strong>{html.escape(name)}</strong>."


def _html_row(report: ExperimentReport, row: Row) -> str:
    values = (
        f"{row.cold_rate:.2%}",
        _seconds(row.wait_p95_s),
        _seconds(row.ttft_p50_s),
        _seconds(row.ttft_p95_s),
        _seconds(row.ttft_p99_s),
        f"{row.gpu_s / 3600:,.2f}",
        "-" if row.over_bound is None else f"{row.over_bound:.2f}",
        f"{row.cost:,.2f}",
    )
    cells = "".join(f"<td>{value}</td>" for value in values)
    kind = ' class="best"' if row.arm == best(report) else ""
    return f'<tr{kind}><th scope="row">{html.escape(row.arm)}</th>{cells}</tr>'


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


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


def write_files(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into a folder; returns them.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in contents.items():
        # A reader never sees half of a file, also when the disk is full.
        fresh = folder / f".{name}.new"
        fresh.write_bytes(content)
        fresh.replace(folder / name)
        written.append(folder / name)
    return written
