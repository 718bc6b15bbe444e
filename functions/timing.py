"""What a request waited for: cold-start phases, token latencies, the `Server-Timing` header. Pure.

All instants and durations are seconds of one clock, given by the caller.
`Server-Timing` is W3C's (https://www.w3.org/TR/server-timing/), whose durations are milliseconds.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """Parts of a cold start, in their usual order. Phases may overlap."""

    QUEUE = "queue"
    """Held by the activator or in the replica's queue."""
    SCHEDULE = "schedule"
    """From the decision for a replica to the start of its process."""
    RESTORE = "restore"
    """Process start to the code being in memory, from a snapshot in place of an import."""
    IMPORT = "import"
    """Process start to the code being imported."""
    DEVICE = "device"
    """Waiting for the accelerator's memory to become free."""
    WEIGHTS = "weights"
    """Reading the weights from object store or cache to the device."""
    INIT = "init"
    """The engine's own start without the weights."""
    WARMUP = "warmup"
    """Profiling, graph capture, a first request that is thrown away."""
    PREFILL = "prefill"
    """The time of the request itself to its first token on a hot engine."""


@dataclass(frozen=True, slots=True)
class ColdStartTiming:
    """One cold start: the warmth at which it began, and the seconds of each phase."""

    warmth: str
    """The warmth it started from: cold, standby, asleep."""
    phases: Mapping[Phase, float] = field(default_factory=dict)
    total: float | None = None
    """Seconds from the decision to HOT; less than the sum where phases overlap. None until it is known."""
    intervals: tuple[tuple[Phase, float, float], ...] = field(default=(), compare=False, repr=False)
    """When each phase began and ended, on the clock of the replica, where that is known."""
    hot_at: float | None = field(default=None, compare=False, repr=False)
    """When it was complete, on the same clock."""

    def with_phase(self, phase: Phase, seconds: float, *, ended: float | None = None) -> "ColdStartTiming":
        """The same with a phase's seconds added, which ended at an instant of the replica's clock."""
        if seconds < 0:
            raise ValueError(f"{phase} = {seconds} s, must be at least 0")
        return ColdStartTiming(
            self.warmth,
            {**self.phases, phase: self.phases.get(phase, 0.0) + seconds},
            self.total,
            self.intervals if ended is None else (*self.intervals, (phase, ended - seconds, ended)),
            self.hot_at,
        )


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """Instants of one generation: the arrival of its request and of each token."""

    arrived: float
    tokens: tuple[float, ...] = ()

    @property
    def ttft(self) -> float | None:
        """Time to first token; None before it."""
        return self.tokens[0] - self.arrived if self.tokens else None

    @property
    def itl(self) -> tuple[float, ...]:
        """Gaps between consecutive tokens; empty for fewer than two."""
        return tuple(b - a for a, b in zip(self.tokens, self.tokens[1:], strict=False))

    @property
    def e2e(self) -> float | None:
        """Arrival to last token."""
        return self.tokens[-1] - self.arrived if self.tokens else None

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first, (end-to-end - TTFT) / (n - 1); None for n < 2."""
        n = len(self.tokens)
        return (self.tokens[-1] - self.tokens[0]) / (n - 1) if n > 1 else None


@dataclass(frozen=True, slots=True)
class ServerTiming:
    """One metric of a `Server-Timing` header."""

    name: str
    seconds: float | None = None
    description: str | None = None


_TOKEN = re.compile(r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
_METRIC = re.compile(
    r"""\s*(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)
        (?P<params>(?:\s*;\s*[^=;,\s]+\s*(?:=\s*(?:"(?:[^"\\]|\\.)*"|[^;,"]*))?)*)\s*(?:,|$)""",
    re.VERBOSE,
)
_PARAM = re.compile(r""";\s*(?P<key>[^=;,\s]+)\s*(?:=\s*(?P<value>"(?:[^"\\]|\\.)*"|[^;,"]*))?""")


def format_server_timing(metrics: Iterable[ServerTiming]) -> str:
    """The header's value, durations in milliseconds with three decimals.

    Raises:
        ValueError: a name that is not an HTTP token.
    """
    return ", ".join(
        _label(metric.name, metric.description)
        if metric.seconds is None
        else f"{_label(metric.name, metric.description)};dur={metric.seconds * 1000:.3f}"
        for metric in metrics
    )


@functools.lru_cache(256)  # the names are few, and this is on the way to every first token
def _label(name: str, description: str | None) -> str:
    if not _TOKEN.match(name):
        raise ValueError(f"Server-Timing name = {name!r}, must be an HTTP token")
    if description is None:
        return name
    if _TOKEN.match(description):
        return f"{name};desc={description}"
    quoted = description.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name};desc="{quoted}"'


def parse_server_timing(value: str) -> tuple[ServerTiming, ...]:
    """The metrics of a header; what does not parse is left out, as the W3C text has it."""
    metrics = []
    for match in _METRIC.finditer(value):
        seconds: float | None = None
        description: str | None = None
        for param in _PARAM.finditer(match["params"]):
            raw = (param["value"] or "").strip()
            if raw.startswith('"'):
                raw = re.sub(r"\\(.)", r"\1", raw[1:-1])
            key = param["key"].lower()
            if key == "dur" and seconds is None:
                try:
                    seconds = float(raw) / 1000
                except ValueError:
                    seconds = None
            elif key == "desc" and description is None:
                description = raw
        metrics.append(ServerTiming(match["name"], seconds, description))
    return tuple(metrics)
