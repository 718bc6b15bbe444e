"""What the demo found: `report.json`, and the tables that a person reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pilotlight.demo.arms import ArmMeasurement, Request

_DECIMALS = 3


@dataclass(frozen=True)
class Price:
    """What a GPU costs, and where the figure is from."""

    gpu: str
    per_hour: float
    currency: str
    source: str

    def of(self, gpu_seconds: float) -> float:
        """The cost of so many GPU-seconds."""
        return gpu_seconds * self.per_hour / 3600


@dataclass(frozen=True)
class DemoReport:
    """Everything that the demo measured."""

    engine: dict[str, str]
    model_parameters: int
    arms: Sequence[ArmMeasurement]
    price: Price
    restored: Request | None = None
    """A cold start from a snapshot; None where the machine cannot restore one."""

    def to_json(self) -> dict[str, Any]:
        """The content of `report.json`; seconds, GPU-seconds, and money at the named price."""
        return {
            "engine": self.engine,
            "model_parameters": self.model_parameters,
            "requests": sum(len(arm.requests) for arm in self.arms),
            "failures": sum(len(arm.failures) for arm in self.arms),
            "price": {
                "gpu": self.price.gpu,
                "per_hour": self.price.per_hour,
                "currency": self.price.currency,
                "source": self.price.source,
            },
            "phases": _rounded(self._phases()),
            "arms": {arm.name: self._arm(arm) for arm in self.arms},
            "restored": None if self.restored is None else _restored(self.restored),
        }

    def _phases(self) -> dict[str, float]:
        for arm in self.arms:
            if arm.cold_starts:
                return arm.phases()
        return {}

    def _arm(self, arm: ArmMeasurement) -> dict[str, Any]:
        ttft, e2e = arm.times("ttft_s"), arm.times("e2e_s")
        return {
            "cold_starts": arm.cold_starts,
            "ttft_p50_s": _stat(median, ttft),
            "ttft_max_s": _stat(max, ttft),
            "e2e_p50_s": _stat(median, e2e),
            "e2e_max_s": _stat(max, e2e),
            "busy_gpu_s": round(arm.gpu.busy, _DECIMALS),
            "idle_gpu_s": round(arm.gpu.idle, _DECIMALS),
            "starting_gpu_s": round(arm.gpu.starting, _DECIMALS),
            "cost": round(self.price.of(arm.gpu.total), 6),
            "seconds": round(arm.seconds, _DECIMALS),
            "warm_up_s": None if arm.warm_up_s is None else round(arm.warm_up_s, _DECIMALS),
            "phases": _rounded(arm.phases()),
            "replicas": [[round(s.at_s, 1), s.ready, s.starting] for s in arm.samples],
            "requests": [
                {
                    "id": r.id,
                    "at_s": round(r.at_s, _DECIMALS),
                    "cold": r.cold,
                    "ttft_s": None if r.ttft_s is None else round(r.ttft_s, _DECIMALS),
                    "e2e_s": None if r.e2e_s is None else round(r.e2e_s, _DECIMALS),
                    "tokens": r.tokens,
                    "error": r.error,
                }
                for r in arm.requests
            ],
        }


def _restored(request: Request) -> dict[str, Any]:
    return {
        "ttft_s": None if request.ttft_s is None else round(request.ttft_s, _DECIMALS),
        "phases": _rounded(request.phases),
        "error": request.error,
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, _DECIMALS) for key, value in values.items()}


def _stat(function: Any, values: list[float]) -> float | None:
    return round(function(values), _DECIMALS) if values else None


_TITLES = {"pool_off": "pool off", "pool_on": "pool on"}


def show(report: DemoReport, console: Console) -> None:
    """Print the tables."""
    table = Table(
        title="What a user waited", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for heading in ("", "requests", "failed", "TTFT p50", "TTFT max", "e2e p50", "e2e max"):
        table.add_column(heading, justify="left" if not heading else "right")
    for arm in report.arms:
        for cold in (True, False):
            ttft, e2e = arm.times("ttft_s", cold=cold), arm.times("e2e_s", cold=cold)
            if ttft:
                table.add_row(
                    f"{_TITLES.get(arm.name, arm.name)}, {'cold' if cold else 'warm'}", str(len(ttft)), "0",
                    *(_seconds(function(values)) for values in (ttft, e2e) for function in (median, max)),
                )  # fmt: skip
        if arm.failures:
            table.add_row(
                f"{_TITLES.get(arm.name, arm.name)}, failed", "0", str(len(arm.failures)), *["-"] * 4
            )
    console.print(Group(Text(), table))
    _show_phases(report, console)
    _show_cost(report, console)
    _show_replicas(report, console)
    for arm in report.arms:
        for request in arm.failures:
            console.print(f"[red]failed[/] {arm.name} {request.id}: {request.error}")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _show_phases(report: DemoReport, console: Console) -> None:
    phases = report.to_json()["phases"]
    if not phases:
        return
    console.print(Group(Text(), Text("Where the cold start went", style="bold")))
    restored = report.restored
    compared = restored is not None and restored.ttft_s is not None
    _print_phases("imported:  " if compared else "", phases, console)
    if restored is not None and restored.ttft_s is not None:
        _print_phases("restored:  ", _rounded(restored.phases), console)
        cold = [value for arm in report.arms for value in arm.times("ttft_s", cold=True)]
        if cold:
            console.print(
                f"  first token after {_seconds(restored.ttft_s)} from a snapshot, {_seconds(median(cold))} "
                "without: snapshot: true in the agent file",
                highlight=False,
            )
    console.print("  (they overlap: queue holds the rest, weights arrive during the import)", style="dim")


def _print_phases(title: str, phases: dict[str, float], console: Console) -> None:
    console.print(
        f"  {title}" + ", ".join(f"{phase} {_seconds(seconds)}" for phase, seconds in phases.items())
    )


def _show_cost(report: DemoReport, console: Console) -> None:
    price = report.price
    table = Table(title="What it cost", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in (
        "",
        "GPU-seconds",
        "busy",
        "idle",
        "starting",
        f"at {price.per_hour:.2f} {price.currency}/h",
    ):
        table.add_column(heading, justify="left" if not heading else "right")
    for arm in report.arms:
        gpu = arm.gpu
        table.add_row(
            _TITLES.get(arm.name, arm.name),
            *(f"{value:.1f}" for value in (gpu.total, gpu.busy, gpu.idle, gpu.starting)),
            f"{price.of(gpu.total):.5f} {price.currency}",
        )
    console.print(Group(Text(), table))
    console.print(
        f"  (a GPU here is a slot that a replica of the model holds; priced as {price.gpu})", style="dim"
    )


def _show_replicas(report: DemoReport, console: Console) -> None:
    console.print(Group(Text(), Text("Replicas of the model over time", style="bold")))
    longest = max((arm.seconds for arm in report.arms), default=1.0)
    width = max(20, min(console.width - 24, 80))
    for arm in report.arms:
        cells = max(1, round(width * arm.seconds / longest))
        console.print(
            f"  {_TITLES.get(arm.name, arm.name):<9}{timeline(arm, cells)}  {arm.seconds:.0f} s",
            highlight=False,
        )
    console.print("  (█ ready, ▒ starting, · none)", style="dim")


def timeline(arm: ArmMeasurement, cells: int) -> str:
    """The arm's samples as one character each slice of time: █ ready, ▒ starting, · none."""
    marks: list[str] = []
    for cell in range(cells):
        low, high = arm.seconds * cell / cells, arm.seconds * (cell + 1) / cells
        inside = [s for s in arm.samples if low <= s.at_s < high]
        if not inside:
            marks.append(marks[-1] if marks else "·")
        elif any(s.ready for s in inside):
            marks.append("█")
        else:
            marks.append("▒" if any(s.starting for s in inside) else "·")
    return "".join(marks)
