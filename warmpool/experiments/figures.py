"""The pictures of a report, as SVG text for the page and as PNG files."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from warmpool.experiments.result import Result
from warmpool.experiments.run import ExperimentReport

_COLOURS: Final = (
    "#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626",
    "#0891b2", "#ca8a04", "#db2777", "#65a30d", "#64748b",
)  # fmt: skip
_MARKERS: Final = "osD^vPX*<>"
_MOST_DAYS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: a file name without its ending, a heading, what it shows in words, and how it is drawn."""

    name: str
    title: str
    description: str
    draw: Callable[[ExperimentReport], Figure]

    def svg(self, report: ExperimentReport) -> str:
        """The picture as an SVG element, the same for the same report."""
        with mpl.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "path", "font.size": 10}):
            figure = self.draw(report)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :]
        label = f'<svg role="img" aria-label="{self.description}"'
        return svg.replace("<svg", label, 1)

    def png(self, report: ExperimentReport) -> bytes:
        """The picture as the bytes of a PNG file."""
        with mpl.rc_context({"font.size": 10}):
            content = io.BytesIO()
            self.draw(report).savefig(content, format="png", dpi=140, bbox_inches="tight")
        return content.getvalue()


def _figure(height: float = 4.2) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.6, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25)
    return figure, axes


def frontier(report: ExperimentReport) -> Figure:
    """Cost against cold starts and against the time to the first token, with the clairvoyant bound."""
    figure = Figure(figsize=(8.6, 4.6))
    rates, latencies = figure.subplots(1, 2)
    for index, arm in enumerate(report.arms):
        style = {"color": _COLOURS[index % len(_COLOURS)], "markersize": 9, "label": arm.name}
        marker = _MARKERS[index % len(_MARKERS)]
        rates.plot(arm.result.cost, arm.result.cold_rate * 100, marker, **style)
        p95 = arm.result.percentile(arm.result.first_token_s, 95)
        latencies.plot(arm.result.cost, max(p95 or 0.0, 1e-3), marker, **style)
    rates.axhline(report.objective * 100, color="#64748b", linestyle=":", linewidth=1.2, label="objective")
    for axes in (rates, latencies):
        if report.bound_gpu_s is not None:
            cost = report.bound_gpu_s / 3600 * report.hourly
            axes.axvline(
                cost, color="#111827", linestyle="--", linewidth=1.2, label="clairvoyant bound, none cold"
            )
        axes.set_xlabel(f"cost of {_span(report)}, {report.currency}")
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, alpha=0.25)
    rates.set_ylabel("requests that waited for a start, %")
    rates.set_ylim(bottom=-0.02 * max([*(arm.result.cold_rate * 100 for arm in report.arms), 1.0]))
    latencies.set_ylabel("p95 of the time to the first token, s")
    latencies.set_yscale("log")
    _plain_log(latencies.yaxis)
    # Below the axes, where it hides no arm.
    handles, labels = rates.get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(
        handles, labels, frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0.02)
    )
    return figure


def _plain_log(axis: Any) -> None:
    """Ticks at 1, 2, 5 of each power of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def replicas(report: ExperimentReport) -> Figure:
    """Replicas against demand over time; of long traces the first days."""
    shown_s = min(max(report.duration_s, 1.0), _MOST_DAYS * 86_400)
    figure = Figure(figsize=(8.6, 1.25 * len(report.arms) + 0.9))
    rows = figure.subplots(len(report.arms), 1, sharex=True, squeeze=False)[:, 0]
    unit, name = (3600.0, "hours") if shown_s > 7200 else (60.0, "minutes")
    for index, (axes, arm) in enumerate(zip(rows, report.arms, strict=True)):
        steps = arm.result.replicas
        steps = np.vstack([steps, [shown_s, *steps[-1, 1:]]])
        times = steps[:, 0] / unit
        ready, starting = steps[:, 1], steps[:, 2]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.fill_between(times, ready, step="post", color=colour, alpha=0.35, linewidth=0)
        axes.fill_between(
            times, ready, ready + starting, step="post", color="#f59e0b", alpha=0.6, linewidth=0
        )
        axes.plot(report.demand[:, 0] / unit, report.demand[:, 1], color="#111827", linewidth=0.6)
        axes.set_title(arm.name, loc="left", fontsize=9)
        axes.set_xlim(0, shown_s / unit)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel(f"{name} since {report.start:%Y-%m-%d %H:%M} UTC")
    figure.tight_layout()
    return figure


def latencies(report: ExperimentReport) -> Figure:
    """The distribution of the time to the first token."""
    figure, axes = _figure()
    shares = np.linspace(0, 100, 500)
    for index, arm in enumerate(report.arms):
        values = np.maximum(np.percentile(arm.result.first_token_s, shares), 1e-3)
        axes.plot(values, shares, color=_COLOURS[index % len(_COLOURS)], linewidth=1.6, label=arm.name)
    axes.set_xscale("log")
    _plain_log(axes.xaxis)
    axes.set_xlabel("time to first token, s")
    axes.set_ylabel("requests that had it by then, %")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


_STATES: Final[tuple[tuple[str, str, Callable[[Result], float]], ...]] = (
    ("busy", "#16a34a", lambda one: one.busy_gpu_s),
    ("starting", "#f59e0b", lambda one: one.starting_gpu_s),
    ("waking", "#eab308", lambda one: one.waking_gpu_s),
    ("idle", "#cbd5e1", lambda one: one.idle_by_warmth["hot"]),
    ("asleep", "#94a3b8", lambda one: one.idle_by_warmth["asleep"]),
    ("standby", "#64748b", lambda one: one.idle_by_warmth["standby"]),
    ("nodes without replicas", "#fecaca", lambda one: one.unused_gpu_s),
)


def gpu_seconds(report: ExperimentReport) -> Figure:
    """Where the GPU-seconds of each arm went."""
    figure, axes = _figure(0.45 * len(report.arms) + 1.3)
    names = [arm.name for arm in report.arms][::-1]
    left = np.zeros(len(names))
    for label, colour, seconds in _STATES:
        hours = np.array([seconds(arm.result) for arm in report.arms])[::-1] / 3600
        if hours.any():
            axes.barh(names, hours, left=left, color=colour, label=label)
        left += hours
    axes.set_xlabel(f"GPU-hours in {_span(report)}")
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _span(report: ExperimentReport) -> str:
    days = report.duration_s / 86_400
    if days >= 2:
        return f"{days:.1f} days"
    return f"{timedelta(seconds=round(report.duration_s))} of traffic"


PICTURES: Final = (
    Picture(
        "frontier",
        "Cost against cold starts and latency",
        "What each arm costs, the share of its requests that waited for a start, and the time to their first "
        "token; the bound knows every request beforehand",
        frontier,
    ),
    Picture(
        "replicas",
        "Replicas against demand",
        "Ready and starting replicas of each arm over time; the thin line is the demand",
        replicas,
    ),
    Picture(
        "first-token",
        "Time to the first token",
        "The share of requests that had their first token by a given time, for each arm",
        latencies,
    ),
    Picture(
        "gpu-hours", "Where the GPU-hours went", "GPU-hours of each arm by what its replicas did", gpu_seconds
    ),
)
