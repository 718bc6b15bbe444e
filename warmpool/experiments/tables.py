"""The tables of a report's page, and the figures of an arm that they show."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from warmpool.experiments.result import Result

_MOST_PARTS: Final = 20
"""Functions of an arm that the page shows; the JSON has all of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One arm in figures; seconds, GPU-seconds and money. None where it cannot be told."""

    arm: str
    requests: int
    cold_rate: float
    woke_rate: float
    """The share of requests that waited for a replica to wake."""
    wait_p50_s: float | None
    wait_p95_s: float | None
    wait_p99_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    gpu_s: float
    busy_gpu_s: float
    waking_gpu_s: float
    idle_hot_gpu_s: float
    asleep_gpu_s: float
    standby_gpu_s: float
    starting_gpu_s: float
    unused_gpu_s: float
    """Of nodes that no replica held."""
    starts: int
    floor_changes: int
    cost: float
    lost: int
    over_bound: float | None
    """GPU-seconds over the clairvoyant bound."""
    gpu_hours_saved_always_on: float | None
    """Against the first arm with a fixed floor."""
    waste_removed_always_on: float | None
    """The share of that arm's GPU-seconds without a request that this one does without."""
    gpu_hours_saved_pool_off: float | None
    """Against the first arm with the autoscaler alone."""
    waste_removed_pool_off: float | None
    """As for that arm."""


def arms(rows: Sequence[Row], currency: str, best: str | None) -> str:
    """What users felt and what it cost, arm by arm."""
    woke = any(row.woke_rate for row in rows)
    bound = any(row.over_bound is not None for row in rows)
    heads = ["arm", "cold", *(["woke"] if woke else []), f"cost {currency}", "GPU-hours"]
    heads += [*(["over bound"] if bound else []), "wait p50", "p95", "p99", "TTFT p50", "p95", "p99"]
    body = [
        (
            row.arm,
            f"{row.cold_rate:.2%}",
            *([f"{row.woke_rate:.2%}"] if woke else []),
            f"{row.cost:,.2f}",
            f"{row.gpu_s / 3600:,.2f}",
            *([f"{row.over_bound:.2f}"] if row.over_bound is not None else []),
            *map(seconds, (row.wait_p50_s, row.wait_p95_s, row.wait_p99_s)),
            *map(seconds, (row.ttft_p50_s, row.ttft_p95_s, row.ttft_p99_s)),
        )
        for row in rows
    ]
    return _table("What users felt and what it cost", heads, body, best)


def gpu_hours(rows: Sequence[Row]) -> str:
    """Where the GPU-hours went, and what each arm saves."""
    states = {
        "busy": "busy_gpu_s",
        "starting": "starting_gpu_s",
        "waking": "waking_gpu_s",
        "idle, hot": "idle_hot_gpu_s",
        "asleep": "asleep_gpu_s",
        "standby": "standby_gpu_s",
        "nodes without replicas": "unused_gpu_s",
    }
    shown = {name: field for name, field in states.items() if any(getattr(row, field) for row in rows)}
    heads = ["GPU-hours", *shown, "starts", "floor changes"]
    saved = [
        ("always on", "gpu_hours_saved_always_on", "waste_removed_always_on"),
        ("pool off", "gpu_hours_saved_pool_off", "waste_removed_pool_off"),
    ]
    saved = [entry for entry in saved if any(getattr(row, entry[1]) is not None for row in rows)]
    for name, _, _ in saved:
        heads += [f"saved against {name}", "of its waste"]
    body = []
    for row in rows:
        cells = [row.arm, *(f"{getattr(row, field) / 3600:,.2f}" for field in shown.values())]
        cells += [f"{row.starts:,}", f"{row.floor_changes:,}"]
        for _, hours, share in saved:
            removed = getattr(row, share)
            cells += [f"{getattr(row, hours):,.2f}", "-" if removed is None else f"{removed:.0%}"]
        body.append(tuple(cells))
    return "<h2>GPU-hours</h2>" + _table("GPU-hours by state", heads, body, None)


def parts(title: str, currency: str, arms: Iterable[tuple[str, Sequence[Result]]]) -> str:
    """The functions or the stages of each arm, those that cost most; empty where there are none."""
    body = []
    for arm, results in arms:
        dearest = sorted(results, key=lambda one: -one.cost)[:_MOST_PARTS]
        kept = [one for one in results if one in dearest] if len(results) > _MOST_PARTS else results
        body += [
            (
                f"{arm}: {one.name}",
                f"{len(one.cold):,}",
                f"{one.cold_rate:.2%}",
                seconds(one.percentile(one.waited_s, 95)),
                f"{one.gpu_s / 3600:,.2f}",
                f"{one.cost:,.2f}",
            )
            for one in kept
        ]
    if not body:
        return ""
    heads = ["", "requests", "cold", "wait p95", "GPU-hours", f"cost {currency}"]
    return f"<h2>{title}</h2>" + _table(title, heads, body, None)


def seconds(value: float | None) -> str:
    """A time for people."""
    if value is None:
        return "-"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _table(label: str, heads: Sequence[str], body: Sequence[tuple[str, ...]], best: str | None) -> str:
    """A table that scrolls sideways on a narrow screen, by touch and by keyboard."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    lines = []
    for name, *cells in body:
        kind = ' class="best"' if name == best else ""
        values = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{kind}><th scope="row">{html.escape(name)}</th>{values}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{html.escape(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
