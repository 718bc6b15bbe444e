"""A comparison as JSON and as rows of text: the same figures for the screen, the page and programs (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from pilotlight.comparison.intervals import Estimate, Quality
from pilotlight.comparison.values import Comparison, Economy, Measured
from pilotlight.comparison.verdict import MOST_DISTURBANCE, Verdict

UNKNOWN = "-"


def to_json(comparison: Comparison, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The whole comparison: seconds, bytes, tokens, shares from 0 to 1."""
    settings = comparison.settings
    said = {verdict.model: verdict for verdict in verdicts}
    return {
        "device": comparison.device.name,
        "prompts": settings.prompts,
        "prompts_file": settings.prompts_file,
        "answer_tokens": settings.answer_tokens,
        "divergence": "exact"
        if settings.top < 0
        else f"lower bound from the {settings.top} most probable tokens",
        "gpu": settings.gpu,
        "context": settings.context,
        "concurrency": settings.concurrency,
        "engine_args": dict(settings.engine_args),
        "currency": settings.currency,
        "hourly": None if settings.hourly is None else float(settings.hourly),
        "notes": list(settings.notes),
        "reference_again": _quality(comparison.again),
        "models": [
            _model(model, economy, said.get(model.checkpoint.name))
            for model, economy in zip(comparison.models, comparison.economies, strict=True)
        ],
    }


def _model(model: Measured, economy: Economy, verdict: Verdict | None) -> dict[str, Any]:
    return {
        "name": model.checkpoint.name,
        "path": str(model.checkpoint.path),
        "scheme": model.checkpoint.scheme,
        "bytes": model.checkpoint.facts.stored_bytes,
        **_quality(model.quality),
        "cold_starts": [{"seconds": start.seconds, "phases": dict(start.phases)} for start in model.starts],
        "tokens_per_s": list(model.tokens_per_s),
        "disturbance": model.disturbance,
        "memory_bytes": model.memory_bytes,
        "gpu_memory_bytes": model.gpu_bytes,
        "replicas_per_gpu": economy.replicas_per_gpu,
        "per_million_tokens": economy.dollars_per_million,
        "tasks": [
            {"task": task.task, "metric": task.metric, "value": task.value, "stderr": task.stderr}
            for task in model.tasks
        ],
        "verdict": None
        if verdict is None
        else {"answer": str(verdict.answer), "reasons": list(verdict.reasons)},
    }


def _quality(quality: Quality) -> dict[str, Any]:
    def known(value: Estimate | None) -> dict[str, float | None] | None:
        return None if value is None else value.to_json()

    return {
        "perplexity": known(quality.perplexity),
        "perplexity_ratio": known(quality.perplexity_ratio),
        "agreement": known(quality.agreement),
        "prefix": known(quality.prefix),
        "same_answers": known(quality.same_answers),
        "divergence": known(quality.divergence),
    }


def rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """A label and a cell for each model, row by row; a row that nobody knows anything of is left out."""
    pairs = list(zip(comparison.models, comparison.economies, strict=True))
    settings = comparison.settings
    found: list[tuple[str, list[str]]] = [
        ("weights", [size(model.checkpoint.facts.stored_bytes) for model, _ in pairs]),
        ("perplexity", [interval(model.quality.perplexity, "{:,.2f}") for model, _ in pairs]),
        ("same first choice", [interval(model.quality.agreement, "{:.1%}") for model, _ in pairs]),
        ("own answer until it differs", [interval(model.quality.prefix, "{:.1%}") for model, _ in pairs]),
        ("same answers", [interval(model.quality.same_answers, "{:.1%}") for model, _ in pairs]),
        (
            "KL divergence, nats" if settings.top < 0 else "KL divergence, nats, at least",
            [interval(model.quality.divergence, "{:.2g}") for model, _ in pairs],
        ),
        ("tokens/s", [_rates(model.tokens_per_s) for model, _ in pairs]),
        ("cold start, s", [f"{median(start.seconds for start in model.starts):.1f}" for model, _ in pairs]),
    ]
    phases = dict.fromkeys(name for model, _ in pairs for start in model.starts for name in start.phases)
    found.extend((f"  {phase}", [_phase(model, phase) for model, _ in pairs]) for phase in phases)
    found.append(("memory", [size(model.memory_bytes) for model, _ in pairs]))
    found.append(
        ("GPU memory", [UNKNOWN if model.gpu_bytes is None else size(model.gpu_bytes) for model, _ in pairs])
    )
    found.append(
        (
            f"replicas on one {settings.gpu}",
            [
                UNKNOWN if economy.replicas_per_gpu is None else str(economy.replicas_per_gpu)
                for _, economy in pairs
            ],
        )
    )
    found.append(
        (
            f"{settings.currency} per million tokens",
            [
                UNKNOWN if economy.dollars_per_million is None else f"{economy.dollars_per_million:,.3g}"
                for _, economy in pairs
            ],
        )
    )
    tasks = dict.fromkeys((task.task, task.metric) for model, _ in pairs for task in model.tasks)
    found.extend((" ".join(key), [_task(model, *key) for model, _ in pairs]) for key in tasks)
    return [(label, cells) for label, cells in found if set(cells) != {UNKNOWN}]


def _rates(rates: Sequence[float]) -> str:
    if not rates:
        return UNKNOWN
    return (
        f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        if len(rates) > 1
        else f"{rates[0]:,.0f}"
    )


def median_phases(model: Measured) -> Mapping[str, float]:
    """The median seconds of each phase over the starts that had it."""
    names = dict.fromkeys(name for start in model.starts for name in start.phases)
    return {
        name: median(start.phases[name] for start in model.starts if name in start.phases) for name in names
    }


def _phase(model: Measured, phase: str) -> str:
    seconds = median_phases(model).get(phase)
    return UNKNOWN if seconds is None else f"{seconds:.2f}"


def _task(model: Measured, name: str, metric: str) -> str:
    for task in model.tasks:
        if (task.task, task.metric) == (name, metric):
            return f"{task.value:.3g}" if task.stderr is None else f"{task.value:.3g} ± {task.stderr:.2g}"
    return UNKNOWN


def interval(estimate: Estimate | None, form: str) -> str:
    """A figure, and its interval where there is one."""
    if estimate is None or not math.isfinite(estimate.value):
        return UNKNOWN
    text = form.format(estimate.value)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return text
    return f"{text} ({form.format(estimate.low)} to {form.format(estimate.high)})"


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def explanations(comparison: Comparison) -> list[str]:
    """How to read the figures, and what they are not."""
    settings = comparison.settings
    top = (
        "over the whole vocabulary"
        if settings.top < 0
        else f"from the {settings.top} most probable tokens of both and all others as one, a lower bound"
    )
    again = comparison.again
    texts = [
        (
            f"{settings.prompts} prompts of {settings.prompts_file}, answers of up to "
            f"{settings.answer_tokens} tokens; in brackets what 95 % of the draws of as many prompts give "
            "(bootstrap)."
        ),
        (
            "Same first choice: every model reads the reference's own answers, and its most probable next "
            "token is compared at each place, so one difference causes no other."
        ),
        "Own answer until it differs: share of the reference's answer that the model writes by itself.",
        f"KL divergence: of the next token's probabilities from the reference's, for each token, {top}.",
        (
            f"Tokens/s: {settings.concurrency} requests at a time on {comparison.device.name}, median of "
            f"{settings.rounds} rounds. Memory: what would become free if the replica ended."
        ),
        (
            f"The reference measured a second time: {interval(again.agreement, '{:.1%}')} same first choice, "
            f"{interval(again.same_answers, '{:.1%}')} same answers, divergence "
            f"{again.divergence.value:.2g}. Differences of that size are none."
        ),
    ]
    if settings.gpu is not None:
        texts.append(
            f"Replicas on one {settings.gpu}: an estimate from weights, a KV cache for "
            f"{settings.concurrency} sequences of {settings.context:,} tokens, and 1 GiB for the rest."
        )
    most = max(model.disturbance for model in comparison.models)
    if most >= MOST_DISTURBANCE:
        texts.append(
            f"Other processes took up to {most:.0%} of the processors while tokens/s were measured, and "
            "models are measured one after the other: their rates and starts cannot be compared. Take an "
            "idle machine."
        )
    return [*texts, *settings.notes]
