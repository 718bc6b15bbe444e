"""What is wrong with the `gpu` of an agent file, beyond its single values (pure)."""

from collections.abc import Iterator, Mapping

from pilotlight.agent import Agent
from pilotlight.compile_gpu import PRICE_ANNOTATION, gpu_of, gpu_types
from pilotlight.gpu_settings import Gpu, GpuType
from pilotlight.stage_spec import StageSpec
from warmpool.domain.cost import PriceList

Location = tuple[str | int, ...]
Problem = tuple[Location, str]
"""Where, and the value with what would be right."""


def gpu_problems(agent: Agent, prices: PriceList, price_file: str) -> Iterator[Problem]:
    """Every problem once, although several stages may have the agent's `gpu`.

    Args:
        agent: whose file it is.
        prices: of the warm-pool controller.
        price_file: where they stand, for the message.
    """
    types = gpu_types(agent)
    seen: set[Problem] = set()
    for index, stage in enumerate(agent.spec.stages):
        gpu = gpu_of(agent, stage)
        if gpu is None:
            continue
        here: Location = ("spec", "gpu") if stage.gpu is None else ("spec", "stages", index, "gpu")
        found = [
            *((here + path, text) for path, text in _type_problems(gpu, types)),
            *((("spec", "stages", index, *path), text) for path, text in _stage_problems(agent, stage, gpu)),
        ]
        if (text := _price_problem(agent, stage, gpu, prices, price_file)) is not None:
            found.append(((*here, "type"), text))
        for problem in found:
            if problem not in seen:
                seen.add(problem)
                yield problem


def _type_problems(gpu: Gpu, types: Mapping[str, GpuType]) -> Iterator[Problem]:
    for name in gpu.type:
        known = types.get(name)
        if known is None:
            yield (
                ("type",),
                f' = "{name}": must be one of {", ".join(sorted(types))}, or described in spec.gpuTypes',
            )
            continue
        if not known.node_labels.get(gpu.node_label):
            there = ", ".join(known.node_labels) or "none"
            yield (
                ("type",),
                (
                    f' = "{name}": has no value of the node label {gpu.node_label} (known: {there}): set '
                    f"gpu.nodeLabel to one of these, or spec.gpuTypes.{name}.nodeLabels"
                ),
            )
        profile = gpu.mig_profile
        if profile is not None and profile not in known.mig:
            right = ", ".join(f"mig-{item}" for item in known.mig)
            yield (
                ("share",),
                f' = "{gpu.share}": {name} '
                + (
                    f"has the profiles {right}"
                    if right
                    else "cannot be partitioned: time-slicing, mps or none"
                ),
            )


def _stage_problems(agent: Agent, stage: StageSpec, gpu: Gpu) -> Iterator[Problem]:
    for name in (*stage.resources.limits, *stage.resources.requests):
        if name.startswith(("nvidia.com/", "amd.com/")):
            yield ("resources",), f": {name} stands here and in gpu: keep one of them"
    if stage.parallel_workers > gpu.count:
        yield (
            ("engine", "args"),
            (
                f".tensor-parallel-size times pipeline-parallel-size ({stage.parallel_workers}) must be at "
                f"most gpu.count ({gpu.count}): each worker needs a GPU of its own"
            ),
        )
    selector = agent.spec.node_selector if stage.node_selector is None else stage.node_selector
    if gpu.type and selector and gpu.node_label in selector:
        yield ("nodeSelector",), f": {gpu.node_label} is what gpu.type chooses by: leave it out here"


def _price_problem(
    agent: Agent, stage: StageSpec, gpu: Gpu, prices: PriceList, price_file: str
) -> str | None:
    pool = agent.pool(stage)
    name = gpu.price_name()
    said = {**agent.spec.annotations, **stage.annotations}
    if pool is None or name is None or PRICE_ANNOTATION in said or prices.of(name) is not None:
        return None
    return (
        f' = "{gpu.type[0]}": the warm pool of stage {stage.name} needs the price of {name}, which '
        f"{price_file} does not have (there: {', '.join(prices.gpus)}): "
        "add it to a copy and name that in PILOTLIGHT_PRICES"
    )
