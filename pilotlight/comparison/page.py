"""A comparison as one HTML page that needs nothing else, with the trade-off drawn."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import yaml
from matplotlib.figure import Figure

from pilotlight.comparison import summary
from pilotlight.comparison.intervals import Estimate
from pilotlight.comparison.values import Comparison
from pilotlight.comparison.verdict import Limits, Verdict
from warmpool.experiments.html_page import page, write_files

_COLOURS: Final = ("#111827", "#2563eb", "#ea580c", "#16a34a", "#9333ea", "#dc2626", "#0891b2", "#ca8a04")
_MARKERS: Final = "osD^vPX*"
_PHASES: Final = ("#64748b", "#2563eb", "#f59e0b", "#16a34a", "#9333ea", "#dc2626", "#0891b2")


def write(file: Path, comparison: Comparison, verdicts: Sequence[Verdict], limits: Limits) -> None:
    """Write the page; a file of this name is replaced.

    Raises:
        OSError: it cannot be written.
    """
    file = file.expanduser().absolute()
    write_files(file.parent, {file.name: to_html(comparison, verdicts, limits).encode()})


def to_html(comparison: Comparison, verdicts: Sequence[Verdict], limits: Limits) -> str:
    """The page."""
    reference = comparison.models[0].checkpoint
    title = f"Is it worth it? Smaller checkpoints of {reference.name}"
    said = "".join(
        f"<h2>{html.escape(verdict.model)}: {html.escape(verdict.answer)}</h2>"
        + "".join(f"<p>{html.escape(reason)}</p>" for reason in verdict.reasons)
        for verdict in verdicts
    )
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in summary.explanations(comparison))
    content = html.escape(json.dumps(summary.to_json(comparison, verdicts), indent=2))
    options = html.escape(yaml.safe_dump(dict(comparison.settings.engine_args), sort_keys=False))
    return page(
        title,
        f"<h1>{html.escape(title)}</h1>"
        f'<p class="dim">{comparison.settings.prompts:,} prompts on {html.escape(comparison.device.name)}. '
        f"Asked for: at least {limits.agreement:.0%} of the first choices the same, and a perplexity at most "
        f"{limits.perplexity_rise:.1%} above that of the reference.</p>"
        f"{said}{_picture(_TRADE_OFF, _DESCRIPTION, _trade_off(comparison, limits))}"
        f"<h2>All figures</h2>{_table(comparison)}"
        f"{_picture('Cold start by phase', _STARTS, _starts(comparison))}"
        f"<h2>How to read this</h2><ul>{notes}</ul>"
        f"<details><summary>Engine options</summary><pre>{options}</pre></details>"
        f"<details><summary>All figures as JSON</summary><pre>{content}</pre></details>",
    )


_TRADE_OFF: Final = "What it changes against what it saves"
_DESCRIPTION: Final = (
    "Left: share of the reference's tokens that are the model's first choice too, against the bytes of its "
    "weights. Right: rise of the perplexity against tokens per second. Bars are 95 % intervals, of tokens "
    "per second the range of the rounds; dotted lines are what was asked for"
)
_STARTS: Final = "Median seconds of each phase, from the process to the first answer; phases may overlap"


def _table(comparison: Comparison) -> str:
    heads = "".join(
        f'<th scope="col">{html.escape(model.checkpoint.name)}<br>'
        f"<small>{html.escape(model.checkpoint.scheme).replace(' ', '<br>', 1)}</small></th>"
        for model in comparison.models
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(label.replace("  ", "of that: "))}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in summary.rows(comparison)
    )
    return (
        '<div class="scroll" role="region" aria-label="All figures" tabindex="0"><table><thead><tr>'
        f'<th scope="col"></th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    """A figure, its interval below it: several models fit beside each other."""
    figure, bracket, rest = html.escape(text).partition(" (")
    return f"{figure}<br><small>({rest}</small>" if bracket else figure


def _picture(title: str, description: str, figure: Figure) -> str:
    with mpl.rc_context({"svg.hashsalt": title, "svg.fonttype": "path", "font.size": 10}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1
    )
    return (
        f'<h2>{title}</h2><figure><div class="scroll" role="region" aria-label="{title}" tabindex="0">'
        f"{svg}</div><figcaption>{html.escape(description)}.</figcaption></figure>"
    )


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25)


def _bars(estimate: Estimate) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return [[max(estimate.value - estimate.low, 0.0) * 100], [max(estimate.high - estimate.value, 0.0) * 100]]


def _trade_off(comparison: Comparison, limits: Limits) -> Figure:
    figure = Figure(figsize=(8.6, 4.2))
    left, right = figure.subplots(1, 2)
    for index, model in enumerate(comparison.models):
        style = {
            "color": _COLOURS[index % len(_COLOURS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "markersize": 8,
            "capsize": 4,
            "linestyle": "",
            "label": model.checkpoint.name,
        }
        agreement, ratio = model.quality.agreement, model.quality.perplexity_ratio
        if agreement is not None:
            share = (
                model.checkpoint.facts.stored_bytes / comparison.models[0].checkpoint.facts.stored_bytes * 100
            )
            left.errorbar(share, agreement.value * 100, yerr=_bars(agreement), **style)
        if ratio is not None and model.tokens_per_s:
            rates = sorted(model.tokens_per_s)
            rate = rates[len(rates) // 2]
            spread = [[rate - rates[0]], [rates[-1] - rate]]
            right.errorbar(rate, (ratio.value - 1) * 100, xerr=spread, yerr=_bars(ratio), **style)
    left.axhline(limits.agreement * 100, color="#64748b", linestyle=":", linewidth=1.2)
    right.axhline(limits.perplexity_rise * 100, color="#64748b", linestyle=":", linewidth=1.2)
    left.set_xlabel("bytes of the weights, % of the reference")
    left.set_ylabel("same first choice, %")
    right.set_xlabel("tokens/s")
    right.set_ylabel("perplexity above the reference, %")
    left.set_xlim(left=0)
    right.set_xlim(left=0)
    _plain(left)
    _plain(right)
    figure.tight_layout()
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0.02)
    )
    return figure


def _starts(comparison: Comparison) -> Figure:
    models = comparison.models[::-1]
    figure = Figure(figsize=(8.6, 0.45 * len(models) + 1.3))
    axes = figure.subplots()
    names = [model.checkpoint.name for model in models]
    medians = [summary.median_phases(model) for model in models]
    left = [0.0] * len(models)
    phases = dict.fromkeys(phase for found in medians for phase in found)
    for index, phase in enumerate(phases):
        widths = [found.get(phase, 0.0) for found in medians]
        axes.barh(names, widths, left=left, color=_PHASES[index % len(_PHASES)], label=phase)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("seconds")
    axes.legend(frameon=False, fontsize=9, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _plain(axes)
    return figure
