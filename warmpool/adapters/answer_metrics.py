"""Which metrics of a replica say how well it answers, and how their growth becomes counts.

They are those of the project's own stages (`functions/metrics.py`); a container of the user's own that
exports the same names is judged by them, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from warmpool.domain.answers import AnswerCounts, Histogram
from warmpool.domain.proportions import Proportion

REQUESTS: Final = "pilotlight_requests_total"
REFUSALS: Final = "pilotlight_refusals_total"
TTFT: Final = "pilotlight_time_to_first_token_seconds"
ITL: Final = "pilotlight_inter_token_seconds"
TOKENS: Final = "pilotlight_answer_tokens"
HISTOGRAMS: Final = (TTFT, ITL, TOKENS)
_FIRST_ERROR: Final = 500
_MAX_LINES: Final = 2_000
_PREFIXES: Final = (REQUESTS, REFUSALS, *(f"{name}_bucket" for name in HISTOGRAMS))
_LINE: Final = re.compile(r"\w+(\{.*\})?\s+\S+(\s+-?\d+)?")


@dataclass(frozen=True, slots=True)
class ReplicaTotals:
    """The counters of one replica since its start."""

    answers: float = 0.0
    errors: float = 0.0
    refusals: float | None = None
    histograms: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    """Cumulative counts by upper bound, by metric."""

    @property
    def tells(self) -> bool:
        """Whether the replica has any of the metrics."""
        return bool(self.answers or self.histograms or self.refusals is not None)


def parse_page(text: str) -> ReplicaTotals:
    """The totals on a page of metrics; lines that are none of these metrics, or malformed, are left out."""
    lines = [line for line in text.splitlines() if line.startswith(_PREFIXES) and _LINE.fullmatch(line)]
    answers = errors = 0.0
    refusals: float | None = None
    histograms: dict[str, dict[float, float]] = {}
    for line in lines[:_MAX_LINES]:
        try:
            families = list(text_string_to_metric_families(line + "\n"))
        except ValueError:
            continue
        for sample in (sample for family in families for sample in family.samples):
            if not 0 <= sample.value < math.inf:
                continue
            if sample.name == REQUESTS:
                answers += sample.value
                errors += sample.value if is_error(sample.labels.get("code", "")) else 0.0
            elif sample.name == REFUSALS:
                refusals = (refusals or 0.0) + sample.value
            elif (bound := bound_of(sample.labels.get("le", ""))) is not None:
                buckets = histograms.setdefault(sample.name.removesuffix("_bucket"), {})
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return ReplicaTotals(answers, errors, refusals, histograms)


def is_error(code: str) -> bool:
    """Whether a status is one of the server's errors."""
    return code.isdigit() and int(code) >= _FIRST_ERROR


def bound_of(text: str) -> float | None:
    """The upper bound of a bucket; None for what is none."""
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(slots=True)
class ReplicaCounts:
    """The growth of one replica's counters since a window was first read.

    Its first answers are never judged by their latency: what a replica has answered up to the first page that
    shows an answer may have waited for its start. Its errors count from the window's beginning.
    """

    baseline: ReplicaTotals
    """At the first reading; nothing for a replica that has started since."""
    warm: ReplicaTotals | None = None
    """From where latencies count."""
    latest: ReplicaTotals = field(default_factory=ReplicaTotals)
    ended: list[ReplicaTotals] = field(default_factory=list)
    """What its process had counted before it began anew."""

    def add(self, totals: ReplicaTotals) -> None:
        """Take over a page. Counters that fell began anew at zero."""
        if totals.answers < self.latest.answers:
            self.ended.append(self.grown())
            self.baseline, self.warm, self.latest = ReplicaTotals(), None, ReplicaTotals()
        if self.warm is None and totals.answers:
            self.warm = totals
        self.latest = totals

    def grown(self) -> ReplicaTotals:
        """Everything since the baseline, latencies since the replica was warm."""
        base, warm, now = self.baseline, self.warm or self.latest, self.latest
        refusals = None if now.refusals is None else max(0.0, now.refusals - (base.refusals or 0.0))
        histograms = {
            name: {
                bound: max(0.0, count - warm.histograms.get(name, {}).get(bound, 0.0))
                for bound, count in buckets.items()
            }
            for name, buckets in now.histograms.items()
        }
        return ReplicaTotals(
            max(0.0, now.answers - base.answers), max(0.0, now.errors - base.errors), refusals, histograms
        )


def add_up(parts: Iterable[ReplicaTotals]) -> AnswerCounts:
    """The counts of a Revision from those of its replicas."""
    answers = errors = 0.0
    refusals: float | None = None
    histograms: dict[str, dict[float, float]] = {}
    for part in parts:
        answers, errors = answers + part.answers, errors + part.errors
        if part.refusals is not None:
            refusals = (refusals or 0.0) + part.refusals
        for name, buckets in part.histograms.items():
            total = histograms.setdefault(name, {})
            for bound, count in buckets.items():
                total[bound] = total.get(bound, 0.0) + count
    found = {
        name: Histogram(tuple((bound, round(count)) for bound, count in sorted(buckets.items())))
        for name, buckets in histograms.items()
        if math.inf in buckets
    }
    whole = round(answers)
    return AnswerCounts(
        answers=whole,
        errors=min(whole, round(errors)),
        refusals=None if refusals is None else Proportion(min(whole, round(refusals)), whole),
        ttft=found.get(TTFT),
        itl=found.get(ITL),
        tokens=found.get(TOKENS),
    )
