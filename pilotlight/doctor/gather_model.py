"""Reads what is known of a model without loading it: headers of its weights, and its config.json."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pilotlight.agent import Agent
from pilotlight.doctor.findings import Unknown
from pilotlight.doctor.model_checks import device_memory
from pilotlight.doctor.model_memory import ModelFacts
from pilotlight.doctor.quantization_checks import names_quantization
from pilotlight.stage_spec import Kind, StageSpec
from weights.errors import WeightsError
from weights.sources import listing
from weights.sources.address import parse_uri
from weights.sources.factory import open_source
from weights.sources.retry_policy import ReadRetryPolicy

_LONGEST_READING_S = 20.0
_QUICK = ReadRetryPolicy(attempts=2, connect_attempts=1, connect_timeout=3.0, read_timeout=5.0)
"""A check is not worth waiting for: what does not answer is unknown. A thread that reads cannot be ended, and
the process waits for it."""


async def read_models(
    agents: Sequence[Agent], *, gpus: bool = True, remote: bool = True
) -> Mapping[str, ModelFacts | Unknown]:
    """The models whose GPU is known or whose quantization is named, by their address.

    Models in folders of this machine are read in any case, the others not: reading costs requests.

    Args:
        agents: whose models.
        gpus: whether the GPUs that the files name are those that models get.
        remote: whether models that are not in a folder may be read.
    """
    wanted = dict.fromkeys(
        uri
        for agent in agents
        for stage in agent.spec.services
        if (uri := agent.spec.model_uri(stage)) and _is_wanted(agent, stage, uri, gpus=gpus, remote=remote)
    )
    found = await asyncio.gather(*map(_read, wanted))
    return dict(zip(wanted, found, strict=True))


def _is_wanted(agent: Agent, stage: StageSpec, uri: str, *, gpus: bool, remote: bool) -> bool:
    if stage.kind is not Kind.GENERATE or stage.engine_type != "vllm":
        return False
    location = parse_uri(uri)
    if isinstance(location, Path):
        return location.is_dir()
    return remote and ((gpus and device_memory(agent, stage) is not None) or names_quantization(stage))


async def _read(uri: str) -> ModelFacts | Unknown:
    try:
        return await asyncio.wait_for(asyncio.to_thread(read_model, uri), _LONGEST_READING_S)
    except TimeoutError:
        return Unknown(f"{uri} was not read within {_LONGEST_READING_S:g} s")
    except (WeightsError, OSError, ValueError) as error:
        return Unknown(f"{uri} cannot be read from here: {error}")


def read_model(uri: str) -> ModelFacts:
    """What is known of a model.

    Raises:
        WeightsError: it cannot be read, or must not be loaded.
        ValueError: its config.json is no JSON object.
    """
    source = open_source(uri, retry=_QUICK)
    try:
        manifest = listing.inspect(source)
        entry = next((file for file in manifest.files if file.path == "config.json"), None)
        config = json.loads(listing.read(source, entry)) if entry is not None else {}
    finally:
        source.close()
    if not isinstance(config, dict):
        raise ValueError("config.json is no JSON object")  # noqa: TRY004  # of a file's text
    stored = sum(tensor.nbytes for header in manifest.headers for tensor in header.counted)
    return ModelFacts(stored, manifest.dtypes, config)
