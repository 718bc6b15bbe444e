"""Whether a smaller model is worth it, in words: what it changes against what it saves (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from pilotlight.comparison.intervals import Estimate
from pilotlight.comparison.values import Comparison, Economy, Measured, Task

FEWEST_PROMPTS = 30
"""Below, a bootstrap's interval is too narrow to be trusted."""
_CHANCE = 0.25
"""A perplexity above this share of the vocabulary: the reference hardly knows what comes next."""
_GAIN = 0.05
"""A difference in bytes, rate or start below this share is none."""
_SURE = 1.96
MOST_DISTURBANCE = 0.1
"""Share of the processors that others may take while rates are measured, one model after the other."""
_MOST_TIMES = 100
"""So many times the prompts are not worth asking for."""
_NO_DISTANCE = 1e-9


class Answer(StrEnum):
    """The short answer."""

    WORTH_IT = "worth it"
    SMALLER_BUT_SLOWER = "worth it where memory or starts count, not speed"
    NOT_WORTH_IT = "not worth it"
    TOO_FEW = "too few prompts to say"
    NOTHING_TO_SAY = "these prompts cannot tell"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a change may be.

    Attributes:
        perplexity_rise: share by which the perplexity may be above that of the reference.
        agreement: share of the reference's tokens that must be the model's first choice.
    """

    perplexity_rise: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one model.

    Attributes:
        model: its name.
        answer: in short.
        reasons: sentences.
    """

    model: str
    answer: Answer
    reasons: tuple[str, ...]


def verdicts(comparison: Comparison, limits: Limits, vocabulary: int) -> list[Verdict]:
    """What is said of each model but the reference.

    Args:
        comparison: as measured.
        limits: what a change may be.
        vocabulary: tokens that the models know.
    """
    reference = comparison.models[0]
    found = []
    for model, economy in zip(comparison.models[1:], comparison.economies[1:], strict=True):
        gains = tuple(_gains(reference, model, comparison.economies[0], economy))
        found.append(_verdict(comparison, model, gains, limits, vocabulary))
    return found


def _verdict(
    comparison: Comparison, model: Measured, gains: tuple[str, ...], limits: Limits, vocabulary: int
) -> Verdict:
    reference = comparison.models[0]
    name = model.checkpoint.name
    slower = _slower(reference, model)
    gains += () if slower is None else (slower,)
    changed = _changed(model)
    own = reference.quality.perplexity
    if own is not None and own.value > _CHANCE * vocabulary:
        return Verdict(
            name,
            Answer.NOTHING_TO_SAY,
            (_by_chance(own.value, vocabulary), changed, *gains),
        )
    lost, unsure = _quality_problems(model, limits)
    lost += _worse_tasks(reference, model)
    if lost:
        return Verdict(name, Answer.NOT_WORTH_IT, (*lost, *gains))
    count = comparison.settings.prompts
    if count < FEWEST_PROMPTS or unsure:
        return Verdict(name, Answer.TOO_FEW, (_more(count, model, limits), changed, *gains))
    if len(gains) == (slower is not None):
        return Verdict(
            name,
            Answer.NOT_WORTH_IT,
            (changed, "But nothing is gained: bytes, rate and start are no better here.", *gains),
        )
    return Verdict(name, Answer.WORTH_IT if slower is None else Answer.SMALLER_BUT_SLOWER, (changed, *gains))


def _by_chance(perplexity: float, vocabulary: int) -> str:
    return (
        f"The reference itself does not know what comes next in these prompts (perplexity {perplexity:,.0f} "
        f"of {vocabulary:,} tokens): its first choices are nearly tied, and any rounding changes them. Take "
        "prompts of your users, and a trained model."
    )


def _changed(model: Measured) -> str:
    parts = []
    if (agreement := model.quality.agreement) is not None:
        parts.append(f"{percent(agreement)} of the reference's tokens are its first choice too")
    if (ratio := model.quality.perplexity_ratio) is not None:
        parts.append(f"its perplexity is {rise(ratio)}")
    return f"{_capital('; '.join(parts) or 'nothing was generated')}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _quality_problems(model: Measured, limits: Limits) -> tuple[list[str], bool]:
    """What is certainly beyond the limits; and whether something may be."""
    lost, unsure = [], False
    agreement, ratio = model.quality.agreement, model.quality.perplexity_ratio
    if agreement is not None:
        high, low = _bounds(agreement, upper=True), _bounds(agreement, upper=False)
        if high < limits.agreement:
            lost.append(
                f"Only {percent(agreement)} of the reference's tokens are its first choice too; "
                f"{limits.agreement:.0%} are asked for."
            )
        unsure = unsure or low < limits.agreement
    if ratio is not None:
        high, low = _bounds(ratio, upper=True), _bounds(ratio, upper=False)
        if low > 1 + limits.perplexity_rise:
            lost.append(f"Its perplexity is {rise(ratio)}; {limits.perplexity_rise:.1%} above are permitted.")
        unsure = unsure or high > 1 + limits.perplexity_rise
    return lost, unsure


def _bounds(estimate: Estimate, *, upper: bool) -> float:
    bound = estimate.high if upper else estimate.low
    if bound is None:  # one prompt: anything may be
        return math.inf if upper else -math.inf
    return bound


def _worse_tasks(reference: Measured, model: Measured) -> Iterator[str]:
    """Scores that are below the reference's by more than their errors."""
    before: dict[tuple[str, str], Task] = {(task.task, task.metric): task for task in reference.tasks}
    for task in model.tasks:
        base = before.get((task.task, task.metric))
        if base is None or task.stderr is None or base.stderr is None:
            continue
        fall = (base.value - task.value) * (1 if task.higher_is_better else -1)
        if fall > _SURE * math.hypot(task.stderr, base.stderr):
            yield f"{task.task} {task.metric} is {task.value:.3g}, that of the reference {base.value:.3g}."


def _more(count: int, model: Measured, limits: Limits) -> str:
    """How many prompts it would take, from how an interval shrinks with their number."""
    factor = FEWEST_PROMPTS / count
    for estimate, limit in (
        (model.quality.agreement, limits.agreement),
        (model.quality.perplexity_ratio, 1 + limits.perplexity_rise),
    ):
        if estimate is None or estimate.low is None or estimate.high is None:
            continue
        distance = abs(estimate.value - limit)
        half = max(estimate.high - estimate.value, estimate.value - estimate.low)
        if estimate.low <= limit <= estimate.high:
            factor = max(factor, (half / distance) ** 2 if distance > _NO_DISTANCE else math.inf)
    if factor > _MOST_TIMES:
        return (
            f"With {count} prompts the interval includes the limit, and the figure is so close to it that "
            "more prompts will hardly decide: move the limit, or let users judge."
        )
    needed = max(FEWEST_PROMPTS, math.ceil(count * factor / 10) * 10)
    return f"{count} prompts leave it open; about {needed:,} of the same kind would decide."


def _gains(reference: Measured, model: Measured, before: Economy, after: Economy) -> Iterator[str]:
    """What is saved, a sentence each; differences that may be noise are none."""
    stored, base = model.checkpoint.facts.stored_bytes, reference.checkpoint.facts.stored_bytes
    if stored < (1 - _GAIN) * base:
        yield f"It has {stored / base:.0%} of the bytes, to be fetched, kept and loaded."
    rates = (reference.tokens_per_s, model.tokens_per_s)
    if _comparable(reference, model) and min(rates[1]) > max(rates[0]):
        factor = median(rates[1]) / median(rates[0])
        if factor > 1 + _GAIN:
            yield f"It generates {factor:.2f} times the tokens per second here."
    starts = [[start.seconds for start in one.starts] for one in (reference, model)]
    if len(starts[0]) > 1 and max(starts[1]) < (1 - _GAIN) * min(starts[0]):
        yield f"It starts in {median(starts[1]):.1f} s instead of {median(starts[0]):.1f} s."
    if before.replicas_per_gpu is not None and (after.replicas_per_gpu or 0) > before.replicas_per_gpu:
        yield (
            f"One GPU holds {after.replicas_per_gpu} replicas of it instead of {before.replicas_per_gpu} "
            "(an estimate)."
        )


def _comparable(*models: Measured) -> bool:
    """Whether there are rounds enough to tell a difference from noise, on a machine that did nothing else."""
    return all(len(one.tokens_per_s) > 1 and one.disturbance < MOST_DISTURBANCE for one in models)


def _slower(reference: Measured, model: Measured) -> str | None:
    rates = (reference.tokens_per_s, model.tokens_per_s)
    if not _comparable(reference, model) or max(rates[1]) >= min(rates[0]):
        return None
    factor = median(rates[1]) / median(rates[0])
    if factor >= 1 - _GAIN:
        return None
    return f"It generates {factor:.2f} times the tokens per second here: it is slower on this device."


def percent(estimate: Estimate) -> str:
    """A share with its interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def rise(ratio: Estimate) -> str:
    """A ratio to the reference with its interval, as a difference."""
    way = "above" if ratio.value >= 1 else "below"
    text = f"{abs(ratio.value - 1):.2%} {way} that of the reference"
    if ratio.low is None or ratio.high is None:
        return text
    return f"{text} ({ratio.low - 1:+.2%} to {ratio.high - 1:+.2%})"
