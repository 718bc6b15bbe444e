"""Whether a new Revision answers as well as the running one, by what both answered in the same minutes.

Every comparison is one of two shares. Errors and refusals are shares already. A latency becomes one at the
running Revision's own p95: the share of answers that are slower than it (with the tolerance, at a bound of
the histogram), of which a Revision as fast has at most five in a hundred. The length of answers becomes one
at the running Revision's median (the control median test of H. C. Mathisen, Annals of Mathematical Statistics
14, 1943). So one sound test for small samples serves all of them (`warmpool.domain.proportions`).

A canary *fails* when Fisher's exact test finds one of its shares higher and the difference is above its
margin. It *passes* when the confidence interval of every difference stays within its margin. Otherwise it
*waits*: too little traffic can never pass.

Looking again and again makes an error of a test more likely. The k-th look therefore spends only 6/(pi k)^2
of the error that is allowed, so that all looks together never exceed it, and comparisons share it evenly
(Bonferroni). To pass, all comparisons have to agree, which needs no such correction (R. L. Berger,
Technometrics 24, 1982); a look for that is only taken when the canary's answers have grown by a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from warmpool.domain.answers import AnswerCounts, AnswerReading, Histogram, RolloutWindow
from warmpool.domain.proportions import Proportion, fisher_greater, newcombe
from warmpool.domain.rollout import Rollout

_SLOW: Final = 0.95
_GROWTH: Final = 1.25


class Outcome(StrEnum):
    """What a comparison, or all of them, came to."""

    PASS = "pass"  # noqa: S105  an outcome
    FAIL = "fail"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One share of both Revisions."""

    name: str
    canary: Proportion
    stable: Proportion
    margin: float
    outcome: Outcome
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The latest look at a canary."""

    outcome: Outcome = Outcome.WAIT
    comparisons: tuple[Comparison, ...] = ()
    detail: str = "no answers have been counted yet"


@dataclass(frozen=True, slots=True)
class AnalysisState:
    """What is remembered of the looks in one window; a restart begins the window's counts anew."""

    window: RolloutWindow | None = None
    read_at: datetime | None = None
    """The reading of the last look."""
    looks: int = 0
    """Looks at which the canary had new answers."""
    seen: int = 0
    """Its answers at the last of them."""
    passes: int = 0
    """Looks at which it could have passed."""
    pass_seen: int = 0
    """Its answers at the last of these."""
    verdict: Verdict = Verdict()


@dataclass(frozen=True, slots=True)
class _Shares:
    name: str
    canary: Proportion
    stable: Proportion
    margin: float
    unit: str
    two_sided: bool = False


def look(
    state: AnalysisState,
    spec: Rollout,
    window: RolloutWindow,
    reading: AnswerReading | None,
    *,
    may_pass: bool,
) -> AnalysisState:
    """The state after a reading; `may_pass` is whether the step has lasted long enough."""
    if state.window != window:
        state = AnalysisState(window)
    if reading is None or reading.window != window or reading.at == state.read_at:
        return state
    canary = reading.counts.get(window.canary, AnswerCounts())
    stable = reading.counts.get(window.stable, AnswerCounts())
    state = replace(state, read_at=reading.at)
    if reading.problem and not canary.answers:
        return replace(state, verdict=Verdict(detail=reading.problem))
    if canary.answers > state.seen:
        state = replace(state, looks=state.looks + 1, seen=canary.answers)
    enough = canary.answers >= spec.min_answers and canary.answers >= state.pass_seen * _GROWTH
    passing = may_pass and enough
    if passing:
        state = replace(state, passes=state.passes + 1, pass_seen=canary.answers)
    verdict = judge(spec, canary, stable, looks=state.looks, passes=state.passes if passing else 0)
    if state.verdict.outcome is Outcome.PASS and verdict.outcome is Outcome.WAIT:
        return state  # it has passed: replicas for the next step may be starting, and only a failure counts
    return replace(state, verdict=verdict)


def check(
    state: AnalysisState, spec: Rollout, window: RolloutWindow, reading: AnswerReading | None
) -> AnalysisState:
    """The state after the quality check, which is made before the first share.

    The prompts are all there are, not a sample of more: their shares are compared as they are.
    """
    if state.window != window:
        state = AnalysisState(window, verdict=Verdict(detail="the quality check is being made"))
    if reading is None or reading.window != window or reading.at == state.read_at:
        return state
    state = replace(state, read_at=reading.at)
    margin, found = spec.margins.quality, reading.quality
    if found is None or margin is None:
        return replace(state, verdict=Verdict(detail=reading.problem or "the quality check is being made"))
    canary, stable = found[window.canary], found[window.stable]
    worse = canary.share - stable.share > margin + 1e-9
    outcome = Outcome.FAIL if worse else Outcome.PASS
    text = (
        f"{canary.hits} of {canary.total} prompts not answered as expected, {stable.hits} of {stable.total} "
        f"by the running Revision; {margin:.1%} more are allowed"
    )
    entry = Comparison("quality", canary, stable, margin, outcome, text)
    return replace(state, verdict=Verdict(outcome, (entry,), str(entry)))


def judge(
    spec: Rollout,
    canary: AnswerCounts,
    stable: AnswerCounts,
    *,
    looks: int = 1,
    passes: int = 1,
) -> Verdict:
    """One look: the `looks`-th that can fail, and the `passes`-th that can pass (0: it cannot)."""
    shares = list(_shares(spec, canary, stable))
    allowed = 1 - spec.confidence
    fail_at = allowed / max(1, len(shares)) * _spent(looks)
    pass_at = 1 - allowed * _spent(passes) if passes else None
    found = tuple(_compare(entry, fail_at, pass_at) for entry in shares)
    failing = [entry for entry in found if entry.outcome is Outcome.FAIL]
    if failing:
        return Verdict(Outcome.FAIL, found, "; ".join(map(str, failing)))
    if canary.answers < spec.min_answers:
        detail = f"{canary.answers} answers of the new Revision, at least {spec.min_answers} are needed"
        return Verdict(Outcome.WAIT, found, detail)
    waiting = [entry for entry in found if entry.outcome is Outcome.WAIT]
    if not found or waiting:
        return Verdict(Outcome.WAIT, found, "; ".join(map(str, waiting)) or "nothing can be compared")
    return Verdict(Outcome.PASS, found, "; ".join(map(str, found)))


def _spent(look: int) -> float:
    """The part of the allowed error that a look may spend: all parts add up to one."""
    return 6 / (math.pi * max(1, look)) ** 2


def _shares(spec: Rollout, canary: AnswerCounts, stable: AnswerCounts) -> Iterator[_Shares]:
    margins = spec.margins
    if margins.errors is not None:
        yield _Shares(
            "errors",
            Proportion(canary.errors, canary.answers),
            Proportion(stable.errors, stable.answers),
            margins.errors,
            "of answers",
        )
    if margins.refusals is not None and canary.refusals is not None and stable.refusals is not None:
        yield _Shares("refusals", canary.refusals, stable.refusals, margins.refusals, "of answers")
    tolerance = 1 + spec.latency_tolerance
    if margins.ttft is not None and (pair := _both(canary.ttft, stable.ttft)):
        bound = pair[1].bound_from(pair[1].quantile(_SLOW) * tolerance)
        yield _Shares(
            "ttft",
            pair[0].above(bound),
            pair[1].above(bound),
            margins.ttft,
            f"of first tokens after {bound:g} s",
        )
    if margins.itl is not None and (pair := _both(canary.itl, stable.itl)):
        bound = pair[1].bound_from(pair[1].quantile(_SLOW) * tolerance)
        yield _Shares(
            "itl",
            _by_answer(pair[0].above(bound), canary.answers),
            _by_answer(pair[1].above(bound), stable.answers),
            margins.itl,
            f"of gaps between tokens above {bound:g} s",
        )
    if margins.tokens is not None and (pair := _both(canary.tokens, stable.tokens)):
        bound = pair[1].middle()
        yield _Shares(
            "tokens",
            pair[0].above(bound),
            pair[1].above(bound),
            margins.tokens,
            f"of answers with more than {bound:g} tokens",
            two_sided=True,
        )


def _both(canary: Histogram | None, stable: Histogram | None) -> tuple[Histogram, Histogram] | None:
    """Both histograms, if they have the same bounds and something in them."""
    if canary is None or stable is None or not canary.total or not stable.total:
        return None
    alike = [edge for edge, _ in canary.buckets] == [edge for edge, _ in stable.buckets]
    return (canary, stable) if alike else None


def _by_answer(gaps: Proportion, answers: int) -> Proportion:
    """Gaps counted as if all of an answer's were one observation: they are slow together."""
    if gaps.total <= answers:
        return gaps
    return Proportion(round(gaps.share * answers), answers)


def _compare(entry: _Shares, fail_at: float, pass_at: float | None) -> Comparison:
    canary, stable, margin = entry.canary, entry.stable, entry.margin
    difference = canary.share - stable.share
    p = fisher_greater(canary, stable)
    if entry.two_sided:
        p = min(1.0, 2 * min(p, fisher_greater(canary.rest, stable.rest)))
        difference = abs(difference)
    shown = (
        f"{canary.hits} of {canary.total} ({canary.share:.1%}) {entry.unit}, "
        f"{stable.hits} of {stable.total} ({stable.share:.1%}) on the running Revision"
    )
    if p <= fail_at and difference > margin:
        return Comparison(entry.name, canary, stable, margin, Outcome.FAIL, f"{shown} (p = {p:.1g})")
    if pass_at is None:
        return Comparison(entry.name, canary, stable, margin, Outcome.WAIT, shown)
    low, high = newcombe(canary, stable, pass_at)
    within = high <= margin and (not entry.two_sided or low >= -margin)
    bound = max(high, -low) if entry.two_sided else high
    text = f"{shown}; the difference may be up to {bound:+.1%}, {margin:.1%} is allowed"
    return Comparison(entry.name, canary, stable, margin, Outcome.PASS if within else Outcome.WAIT, text)
