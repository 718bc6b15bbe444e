"""A replay's figures on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.table import Table

from pilotlight import terminal
from warmpool.domain.cost import PriceList
from warmpool.experiments.compare import Difference
from warmpool.experiments.replay_error import ArmComparison, Compared
from warmpool.experiments.replay_report import FIGURES, ModelUsed, chain_remarks, remarks, shown, shown_error
from warmpool.experiments.replay_results import ReplayResults


def show(
    results: ReplayResults, compared: Sequence[ArmComparison], model: ModelUsed | None, prices: PriceList
) -> None:
    """Print measured and simulated figures side by side."""
    if model is None or not compared:
        answered = sum(request.error is None for request in results.requests)
        why = "; too few are known to be warm for a simulation: give --calibration, or replay more"
        typer.echo(
            f"{answered:,} of {len(results.requests):,} requests were answered"
            + (why if model is None and answered else "")
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("arm", "figure", "measured", "simulated", "error"):
        table.add_column(heading, justify="left" if heading in {"arm", "figure"} else "right")
    for arm in compared:
        for index, (label, name) in enumerate(FIGURES):
            figures: Compared = getattr(arm, name)
            table.add_row(
                arm.arm if not index else "",
                label,
                shown(name, figures.live),
                shown(name, figures.simulated),
                shown_error(name, figures),
            )
    terminal.console().print(table)
    for arm in compared:
        gap = "" if arm.itl_p50_s is None else f", gap between tokens p50 {shown('itl', arm.itl_p50_s)}"
        cost = "" if arm.cost is None else f", {arm.cost:.5f} {prices.currency}"
        first, whole = (
            " and ".join(shown("", getattr(arm, f"due_{name}_{q}_s")) for q in ("p50", "p95"))
            for name in ("ttft", "e2e")
        )
        typer.echo(
            f"{arm.arm}: {arm.requests:,} answered; from when they were due: TTFT {first}, end-to-end {whole}"
            f" (p50 and p95); sender late by {shown('', arm.late_p95_s)} at p95{gap}{cost}"
        )
        for text in remarks(arm):
            typer.echo(f"note: {text}")
    for text in chain_remarks(results.header):
        typer.echo(f"note: {text}")
    typer.echo(f"simulated with {model.source}")
    for text in model.notes:
        typer.echo(f"  {text}")


_LABELS = {"cold_rate": "cold starts", "gpu_s": "GPU-seconds"}


def show_differences(found: Sequence[Difference]) -> None:
    """Print two replays side by side."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("arm", "figure", "first", "second", "change", "95 % interval"):
        table.add_column(heading, justify="left" if heading in {"arm", "figure"} else "right")
    before = None
    for entry in found:
        label = _LABELS.get(entry.figure, entry.figure.removesuffix("_s").replace("_", " "))
        interval = "-"
        if entry.low is not None and entry.high is not None:
            interval = f"{_signed(entry, entry.low)} to {_signed(entry, entry.high)}"
            interval += "" if entry.certain else "  (may be chance)"
        table.add_row(
            entry.arm if entry.arm != before else "",
            label,
            _value(entry, entry.first),
            _value(entry, entry.second),
            _signed(entry, entry.change),
            interval,
        )
        before = entry.arm
    terminal.console().print(table)


def _value(entry: Difference, value: float) -> str:
    if entry.figure == "cold_rate":
        return f"{value:.2%}"
    return shown("gpu_s" if entry.figure == "gpu_s" else "", value)


def _signed(entry: Difference, value: float) -> str:
    return ("-" if value < 0 else "+") + _value(entry, abs(value))
