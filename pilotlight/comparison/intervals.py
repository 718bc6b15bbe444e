"""Means over prompts with what they may be with other prompts of the same kind: the bootstrap (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pilotlight.comparison.scores import PromptScore

Values = npt.NDArray[np.float64]

_SAMPLES = 4000
_TAILS = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and the bounds of its 95 % interval; None where one prompt is all there is."""

    value: float
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """As JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Quality:
    """What a model changes in the answers.

    Attributes:
        perplexity: of the prompts.
        perplexity_ratio: to that of the reference, over the same draws of prompts.
        agreement: share of the reference's tokens that are this model's first choice too.
        prefix: share of the reference's answer that this model gives by itself until it differs.
        same_answers: share of the prompts with the same answer, token for token.
        divergence: from the reference, nats per token.
    """

    perplexity: Estimate | None
    perplexity_ratio: Estimate | None
    agreement: Estimate | None
    prefix: Estimate | None
    same_answers: Estimate
    divergence: Estimate


def quality(reference: Sequence[PromptScore], model: Sequence[PromptScore]) -> Quality:
    """Means over the prompts, each prompt drawn with all its tokens (its tokens are not independent).

    Args:
        reference: a score for each prompt.
        model: likewise, in the same order.
    """
    count = len(model)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_SAMPLES)
    # The observed sample comes first, so that one product gives the figure and its draws.
    weights = np.vstack([np.ones(count), draws])

    def column(scores: Sequence[PromptScore], name: str) -> Values:
        return np.array([getattr(item, name) for item in scores], dtype=np.float64)

    def ratio(upper: Values, lower: Values) -> Values | None:
        if not lower.any():
            return None
        below = weights @ lower
        # A draw may miss every prompt that has such tokens.
        found: Values = (weights @ upper)[below > 0] / below[below > 0]
        return found

    def estimate(values: Values | None) -> Estimate | None:
        if values is None:
            return None
        if count == 1:
            return Estimate(float(values[0]))
        low, high = np.percentile(values[1:], _TAILS)
        return Estimate(float(values[0]), float(low), float(high))

    places = column(model, "prompt_places")
    loss = ratio(column(model, "nll"), places)
    reference_loss = ratio(column(reference, "nll"), places)
    answer, prefix = column(model, "answer"), column(model, "prefix")
    same = estimate(ratio((prefix >= answer).astype(np.float64), np.ones(count)))
    divergence = estimate(ratio(column(model, "kl"), np.maximum(column(model, "places"), 1)))
    assert same is not None
    assert divergence is not None
    return Quality(
        perplexity=estimate(None if loss is None else np.exp(loss)),
        perplexity_ratio=estimate(
            None if loss is None or reference_loss is None else np.exp(loss - reference_loss)
        ),
        agreement=estimate(ratio(column(model, "agreed"), answer)),
        prefix=estimate(ratio(prefix, answer)),
        same_answers=same,
        divergence=divergence,
    )
