"""A whole comparison: everything is checked first, then one model is measured after the other."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from functions.engines.vllm.option_schema import installed_release
from functions.engines.vllm.options import reserved_options
from pilotlight.comparison import device as devices
from pilotlight.comparison.checkpoints import check_memory, longest, read_checkpoints, vocabulary
from pilotlight.comparison.economy import economy, workers
from pilotlight.comparison.errors import CompareInputError
from pilotlight.comparison.intervals import quality
from pilotlight.comparison.measure import Measurement, Plan, Progress
from pilotlight.comparison.prompts import read_prompts
from pilotlight.comparison.tasks import check_tasks
from pilotlight.comparison.values import Checkpoint, Comparison, Settings
from pilotlight.comparison.verdict import FEWEST_PROMPTS
from pilotlight.gpu_settings import GpuType
from warmpool.domain.cost import PriceList

_LONGEST_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Attributes:
        models: folders; the first is the reference.
        prompts: the prompts file.
        prices: GPU prices.
        types: GPU types.
        gpu: type that replicas are counted on; None: that of this machine, if it has one.
        hourly: price of what the models run on here; None: that of its GPU in `prices`.
        answer_tokens: of the reference's answer to each prompt.
        top: most probable tokens that are named for each place; -1: the whole vocabulary.
        concurrency: requests at a time.
        rounds: of the throughput.
        starts: cold starts of each model.
        context: tokens of a request with its answer; None: what the model takes, at most 4096.
        args: the engine's options.
        tasks: of lm-eval.
        patience_s: of one cold start.
    """

    models: Sequence[Path]
    prompts: Path
    prices: PriceList
    types: Mapping[str, GpuType]
    gpu: str | None = None
    hourly: Decimal | None = None
    answer_tokens: int = 64
    top: int = 20
    concurrency: int = 8
    rounds: int = 3
    starts: int = 1
    context: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    tasks: Sequence[str] = ()
    patience_s: float = 900


async def compare(request: Request, progress: Progress) -> tuple[Comparison, int]:
    """Measure all models; returns the comparison and the size of their vocabulary.

    Args:
        request: what is asked for.
        progress: told what is being done.

    Raises:
        CompareInputError: something that was given cannot be used; nothing has been started.
        CompareError: a model cannot be measured.
    """
    if installed_release() is None:
        raise CompareInputError("vLLM is not installed; models are compared with pilotlight[cpu] or [gpu]")
    prompts = read_prompts(request.prompts)
    check_tasks(request.tasks)
    if problems := reserved_options(request.args):
        raise CompareInputError(f"engine options: {'; '.join(problems)}")
    checkpoints = await asyncio.to_thread(read_checkpoints, request.models)
    readings = devices.gpus(os.environ)
    device = devices.device(readings)
    here = devices.type_of(device.name, request.types) if device.gpu else None
    gpu = request.gpu if request.gpu is not None else here
    if gpu is not None and gpu not in request.types:
        raise CompareInputError(f"--gpu {gpu}: must be one of {', '.join(sorted(request.types))}")
    context = _context(request, checkpoints)
    args = _args(request, context, gpu=device.gpu)
    memory = psutil.virtual_memory().available
    total = next((int(reading.values.get("memory_total_bytes", 0)) for reading in readings), 0)
    for checkpoint in checkpoints:
        check_memory(checkpoint, args, available=memory, gpu_bytes=total or None)
    plan = Plan(
        prompts=prompts,
        answer_tokens=request.answer_tokens,
        top=request.top,
        concurrency=request.concurrency,
        rounds=request.rounds,
        starts=request.starts,
        patience_s=request.patience_s,
        args=args,
        tasks=request.tasks,
    )
    hourly, note = price_of(request, gpu=gpu, here=here, on=device.name)
    # No proxy of the environment is between this process and its replicas.
    async with aiohttp.ClientSession(trust_env=False) as session:
        measurement = Measurement(plan, session, progress)
        models = [await measurement.run(checkpoint) for checkpoint in checkpoints]
    return (
        Comparison(
            settings=Settings(
                prompts_file=str(request.prompts),
                prompts=len(prompts),
                answer_tokens=request.answer_tokens,
                engine_args=args,
                concurrency=request.concurrency,
                rounds=request.rounds,
                gpu=gpu,
                context=context,
                hourly=hourly,
                currency=request.prices.currency,
                top=request.top,
                notes=tuple(_notes(len(prompts), note)),
            ),
            device=device,
            models=models,
            again=quality(measurement.reference, measurement.again),
            economies=[
                economy(
                    model,
                    args,
                    gpu_bytes=None if gpu is None else request.types[gpu].memory_bytes,
                    context=context,
                    sequences=request.concurrency,
                    hourly=hourly,
                )
                for model in models
            ],
        ),
        vocabulary(checkpoints[0]),
    )


def _context(request: Request, checkpoints: Sequence[Checkpoint]) -> int:
    known = [size for one in checkpoints if (size := longest(one)) is not None]
    most = min(known, default=_LONGEST_CONTEXT)
    given = request.args.get("max-model-len", request.context)
    if given is None:
        return min(most, _LONGEST_CONTEXT)
    if not isinstance(given, int) or not 1 < given <= most:
        raise CompareInputError(f"--context {given}: must be from 2 to {most}, which the models take")
    return given


def _args(request: Request, context: int, *, gpu: bool) -> dict[str, Any]:
    """The options of every replica: what was given, over what makes measurements comparable."""
    own: dict[str, Any] = {
        "max-model-len": context,
        "max-logprobs": request.top,
        # Every round answers the same prompts: with the cache only the first would read them.
        "enable-prefix-caching": False,
        "seed": 0,
    }
    if not gpu:
        own["enforce-eager"] = True  # on processors compiling takes minutes
    given = {key.replace("_", "-"): value for key, value in request.args.items()}
    try:
        json.dumps(given)
    except (TypeError, ValueError) as error:
        raise CompareInputError(f"engine options: {error}") from None
    return {**own, **given, "max-logprobs": own["max-logprobs"]}


def price_of(
    request: Request, *, gpu: str | None, here: str | None, on: str
) -> tuple[Decimal | None, str | None]:
    """The price of what the models run on, and a note: where it is from, or why there is none.

    Args:
        request: what is asked for.
        gpu: type that replicas are counted on.
        here: type of this machine's GPU; None without one that is known.
        on: name of the device.
    """
    if request.hourly is not None:
        return request.hourly, None
    if here is None:
        about = f", not on {gpu}" if gpu is not None else ""
        return None, (
            f"Tokens per second were measured on {on}{about}: dollars per million tokens need --hourly, "
            "the price of this machine."
        )
    if gpu != here:
        return (
            None,
            f"Tokens per second were measured on {here}, not on {gpu}, so no price of {gpu} is taken.",
        )
    price = request.prices.of(here)
    if price is None:
        return None, f"The price list has no {here}."
    count = workers(request.args)
    return (
        price.hourly * count,
        f"{count} x {here}: {price.hourly} an hour each ({price.source}, {price.date}).",
    )


def _notes(prompts: int, price: str | None) -> list[str]:
    notes = [] if price is None else [price]
    if prompts < FEWEST_PROMPTS:
        notes.append(f"{prompts} prompts are few: intervals are of use from {FEWEST_PROMPTS}.")
    return notes
