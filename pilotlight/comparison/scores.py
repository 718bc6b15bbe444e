"""How far a model's predictions are from the reference's, prompt by prompt (pure).

All models are given the same tokens: a prompt, and behind it what the reference answered with its most
probable token each time. So one token that differs changes nothing behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LEAST_REST = 1e-6
"""Probability behind the tokens that both lists have, below which there is no rest: float32's precision."""
_LEAST = 1e-9
"""The least probability of the rest that a logarithm is taken of."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a model predicts for one place of a text.

    Attributes:
        token: the one that stands there.
        logprob: of that token, natural.
        ids: the most probable tokens, and `token`, [n].
        logprobs: of `ids`, [n].
    """

    token: int
    logprob: float
    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]

    @property
    def agrees(self) -> bool:
        """Whether no token is more probable than the one that stands there."""
        return self.logprob >= float(self.logprobs.max())


@dataclass(frozen=True, slots=True)
class PromptScore:
    """Sums over one prompt, from which means over prompts are made.

    Attributes:
        nll: negative log-likelihood of the prompt's tokens but the first, in nats.
        prompt_places: tokens in `nll`.
        kl: divergence from the reference, summed over the places, in nats.
        places: of prompt and answer.
        agreed: tokens of the reference's answer that were this model's first choice.
        answer: tokens of the reference's answer.
        prefix: tokens of this model's own answer until it leaves that of the reference.
    """

    nll: float
    prompt_places: int
    kl: float
    places: int
    agreed: int
    answer: int
    prefix: int


def score(
    reference: Sequence[Place],
    model: Sequence[Place],
    prompt_tokens: int,
    *,
    own: Sequence[int],
    answer: Sequence[int],
) -> PromptScore:
    """The sums of one prompt.

    Args:
        reference: what the reference predicts for every token but the first.
        model: what the model predicts for the same tokens.
        prompt_tokens: of the prompt; the rest of the places is the reference's answer.
        own: the model's own answer, as tokens.
        answer: that of the reference.
    """
    prompt, answered = model[: prompt_tokens - 1], model[prompt_tokens - 1 :]
    return PromptScore(
        nll=-sum(place.logprob for place in prompt),
        prompt_places=len(prompt),
        kl=sum(divergence(one, other) for one, other in zip(reference, model, strict=True)),
        places=len(model),
        agreed=sum(place.agrees for place in answered),
        answer=len(answered),
        prefix=common_prefix(own, answer),
    )


def divergence(reference: Place, model: Place) -> float:
    """Kullback-Leibler divergence of the model from the reference at one place, in nats.

    Over the tokens that both lists have, and all other tokens as one. Merging outcomes never increases the
    divergence (data processing inequality), so this is a lower bound; with lists of the whole vocabulary it
    is the divergence.
    """
    _, mine, theirs = np.intersect1d(reference.ids, model.ids, assume_unique=True, return_indices=True)
    log_p = reference.logprobs[mine].astype(np.float64)
    log_q = model.logprobs[theirs].astype(np.float64)
    p = np.exp(log_p)
    total = float(np.sum(p * (log_p - log_q), where=p > 0))
    if (rest := 1.0 - float(p.sum())) > _LEAST_REST:
        other = max(1.0 - float(np.exp(log_q).sum()), _LEAST)
        total += rest * float(np.log(rest / other))
    return max(total, 0.0)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers have in common until the first that differs."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))
