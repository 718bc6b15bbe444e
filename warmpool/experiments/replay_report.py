"""A replay's report: one HTML page that needs nothing else, and the same as JSON."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from warmpool.experiments.experiment import ReplicaSpec, ServiceTime
from warmpool.experiments.html_page import page, write_files
from warmpool.experiments.replay_error import ArmComparison, Compared
from warmpool.experiments.replay_results import ReplayHeader

FIGURES: Final = (
    ("cold starts", "cold_starts"),
    ("TTFT p50", "ttft_p50_s"),
    ("TTFT p95", "ttft_p95_s"),
    ("end-to-end p50", "e2e_p50_s"),
    ("end-to-end p95", "e2e_p95_s"),
    ("GPU-seconds", "gpu_s"),
)
"""What the table shows, and the attribute of each."""


@dataclass(frozen=True, slots=True)
class ModelUsed:
    """What the simulation was told of the function.

    Attributes:
        service: its service time.
        replica: its replica.
        source: where both are from.
        notes: how good they are.
    """

    service: ServiceTime
    replica: ReplicaSpec
    source: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As an experiment file has it, and the source."""
        replica = self.replica.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        service = self.service.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {"from": self.source, "service": service, "replica": replica}


def to_json(header: ReplayHeader, arms: Sequence[ArmComparison], model: ModelUsed | None) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "url": header.url,
        "service": header.service,
        "trace": header.trace,
        "speed": header.speed,
        "started": header.started.isoformat(),
        "requests": header.requests,
        "model": None if model is None else model.to_json(),
        "arms": [arm.to_json() for arm in arms],
    }


def shown(name: str, value: float | None) -> str:
    """A figure as text."""
    if value is None:
        return "-"
    if name == "cold_starts":
        return f"{value:.0f}"
    if name == "gpu_s":
        return f"{value:,.1f}"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def shown_error(name: str, figures: Compared) -> str:
    """The error as text: of cold starts their number, else a share."""
    if figures.live is None:
        return "-"
    if name == "cold_starts":
        return f"{figures.simulated - figures.live:+.0f}"
    return "-" if figures.error is None else f"{figures.error:+.1%}"


def to_html(header: ReplayHeader, arms: Sequence[ArmComparison], model: ModelUsed) -> str:
    """The report as one page without links to anything outside it."""
    title = f"Replay of {header.trace}"
    cells = []
    for arm in arms:
        for index, (label, name) in enumerate(FIGURES):
            figures: Compared = getattr(arm, name)
            first = f'<th scope="rowgroup" rowspan="{len(FIGURES)}">{html.escape(arm.arm)}</th>'
            span = f"{shown(name, figures.low)} to {shown(name, figures.high)}"
            values = (shown(name, figures.live), shown(name, figures.simulated), span)
            cells.append(
                f'<tr>{first if not index else ""}<th scope="row">{label}</th>'
                + "".join(f"<td>{value}</td>" for value in values)
                + f"<td>{shown_error(name, figures)}</td></tr>"
            )
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("arm", "figure", "measured", "simulated", "5 to 95 % of the seeds", "error")
    )
    said = [*chain_remarks(header), *(text for arm in arms for text in remarks(arm))]
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in said)
    fit = "".join(f"<li>{html.escape(text)}</li>" for text in model.notes)
    content = html.escape(json.dumps(to_json(header, arms, model), indent=2))
    return page(
        title,
        f"<h1>{html.escape(title)}</h1>"
        f'<p class="dim">{header.requests:,} requests to {html.escape(header.url)}, {header.speed:g} times '
        f"as fast as recorded, {header.started:%Y-%m-%d %H:%M} UTC.</p>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(cells)}</tbody></table></div>"
        f"<ul>{notes}</ul><h2>End-to-end latency, measured and simulated</h2>"
        f"<figure>{_svg(arms)}<figcaption>Solid: measured. Dashed: simulated.</figcaption></figure>"
        f"<h2>The simulated function</h2><p>From {html.escape(model.source)}.</p><ul>{fit}</ul>"
        f"<details><summary>All figures as JSON</summary><pre>{content}</pre></details>",
    )


def chain_remarks(header: ReplayHeader) -> list[str]:
    """What a reader has to know where the URL is that of a chain, not of the Service that is simulated."""
    if header.service is None or f"/{header.service}/" in f"{header.url}/":
        return []
    name = header.service.rpartition("/")[2]
    if f"//{name}." in header.url:
        return []
    return [f"only the starts of {name} are simulated: those of the other stages lengthen cold requests"]


def remarks(arm: ArmComparison) -> list[str]:
    """What a reader of an arm's figures has to know."""
    found = []
    if not arm.complete:
        found.append(f"{arm.arm}: interrupted, the figures are those of the requests that were answered")
    if arm.failed:
        found.append(f"{arm.arm}: {arm.failed:,} requests failed, which the simulation has not")
    if arm.unknown:
        found.append(f"{arm.arm}: {arm.unknown:,} answers do not say whether they waited for a start")
    if arm.held_back:
        found.append(
            f"{arm.arm}: {arm.held_back:,} requests waited for the limit on requests in flight before they "
            "were sent"
        )
    elif arm.late_p95_s is not None and arm.late_p95_s > 0.1:
        found.append(
            f"{arm.arm}: the sender was {arm.late_p95_s:.2f} s late at p95; it or this machine is too slow"
        )
    if arm.source == "pods":
        found.append(f"{arm.arm}: GPU-seconds are the lifetimes of the pods")
    return found


def _svg(arms: Sequence[ArmComparison]) -> str:
    colours = ("#2563eb", "#dc2626", "#16a34a", "#9333ea", "#ea580c", "#0891b2")
    with mpl.rc_context({"svg.hashsalt": "replay", "svg.fonttype": "path", "font.size": 10}):
        figure = Figure(figsize=(8.6, 4.2))
        axes = figure.subplots()
        for index, arm in enumerate(arms):
            colour = colours[index % len(colours)]
            for values, style, label in (
                (arm.live_e2e_s, "-", arm.arm),
                (arm.simulated_e2e_s, "--", None),
            ):
                points = np.maximum(np.sort(np.array(values)), 1e-3)
                shares = np.arange(1, len(points) + 1) / len(points) * 100
                axes.step(points, shares, style, where="post", color=colour, linewidth=1.6, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("end-to-end latency, s")
        axes.set_ylabel("requests answered by then, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, alpha=0.25)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = text.getvalue()
    label = '<svg role="img" aria-label="Share of requests answered by a given time, measured and simulated"'
    return svg[svg.index("<svg") :].replace("<svg", label, 1)


def write(folder: Path, header: ReplayHeader, arms: Sequence[ArmComparison], model: ModelUsed) -> list[Path]:
    """Write `replay.html` and `replay.json`; returns the files.

    Raises:
        OSError: the folder cannot be written.
    """
    content = json.dumps(to_json(header, arms, model), indent=2) + "\n"
    return write_files(
        folder,
        {
            "replay.html": to_html(header, arms, model).encode(),
            "replay.json": content.encode(),
        },
    )
