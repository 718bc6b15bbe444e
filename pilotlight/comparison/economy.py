"""What a model costs to serve: replicas that one GPU holds, and the price of a million tokens (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import prod
from statistics import median
from typing import Any

from pilotlight.comparison.values import Economy, Measured
from pilotlight.doctor.model_memory import estimate

RUNTIME_BYTES = 1 << 30
"""Of a replica on a GPU beside weights and KV cache: context, activations, graphs; an assumption."""


def economy(
    model: Measured,
    args: Mapping[str, Any],
    *,
    gpu_bytes: int | None,
    context: int,
    sequences: int,
    hourly: Decimal | None,
) -> Economy:
    """What a model costs.

    Args:
        model: as measured.
        args: the engine's options.
        gpu_bytes: memory of the GPU that replicas are counted on; None: they are not.
        context: tokens of one sequence.
        sequences: that a replica answers at a time.
        hourly: price of the device that the model ran on; None: no price is named.
    """
    devices = workers(args)
    found = estimate(
        model.checkpoint.facts, {**args, "max-model-len": context}, device_bytes=gpu_bytes or 0, workers=1
    )
    replicas = None
    # A replica over several GPUs takes each of them whole.
    if gpu_bytes is not None and found.kv_per_token is not None and devices == 1:
        needed = RUNTIME_BYTES + found.weights + found.kv_per_token * context * sequences
        replicas = found.budget // needed
    return Economy(found.weights, replicas, dollars_per_million(model.tokens_per_s, hourly))


def workers(args: Mapping[str, Any]) -> int:
    """Devices that the engine's options spread a replica over."""
    sizes = [args.get(name, 1) for name in ("tensor-parallel-size", "pipeline-parallel-size")]
    return prod(size for size in sizes if isinstance(size, int) and size > 0)


def dollars_per_million(tokens_per_s: Sequence[float], hourly: Decimal | None) -> float | None:
    """The price of a million generated tokens, where the device does nothing else; None without a price."""
    if hourly is None or not tokens_per_s or not (rate := median(tokens_per_s)):
        return None
    return float(hourly) / 3600 / rate * 1e6
