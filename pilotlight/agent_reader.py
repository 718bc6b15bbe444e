"""From a file to an agent, with errors that name file, line, field, value, and what would be right."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from functions.engines.vllm import options
from functions.engines.vllm.option_schema import ValidationUnavailableError
from knative.autoscaling import annotations as knative_annotations
from knative.autoscaling.config import AutoscalerConfig
from pilotlight import yaml_locations
from pilotlight.agent import Agent, AgentFileError
from pilotlight.agent_graph import graph_problems
from pilotlight.compile import autoscaling
from pilotlight.compile_gpu import gpu_of
from pilotlight.gpu_problems import gpu_problems
from pilotlight.quality_prompts import read_prompt_files
from pilotlight.tool_modules import read_tool_modules
from warmpool.adapters.price_file import read_prices
from warmpool.domain.spec_errors import TEXT_NOT_BOOLEAN, SpecError, without_kinds
from weights.cache.location import default_cache_dir
from weights.sources.address import absolute_uri

PRICES_VARIABLE = "PILOTLIGHT_PRICES"
"""Names the warm-pool controller's price list."""
_LENIENT = AutoscalerConfig(allow_zero_initial_scale=True)
"""What a cluster may be set to; the cluster itself says so where it isn't."""


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command line's own channel


def load_agent(path: Path, *, tell: Callable[[str], None] = _on_stderr) -> Agent:
    """Read and check an agent file. A relative path of a model is relative to the file.

    Args:
        path: of the file.
        tell: takes a line about what takes long, or could not be checked here.

    Raises:
        AgentFileError: with one line for each problem.
    """
    try:
        document = yaml_locations.load(path)
    except yaml_locations.FileError as error:
        raise AgentFileError(str(error)) from error
    if not isinstance(document.value, dict):
        raise AgentFileError(f"{path}:1: must be a mapping with apiVersion, kind, metadata and spec")
    folder = path.absolute().parent
    unread = [
        f"{path}:{document.line(where)}: {'.'.join(map(str, where))}: {text}"
        for read in (read_prompt_files, read_tool_modules)
        for where, text in read(document.value, folder)
    ]
    if unread:
        raise AgentFileError("\n".join(unread))
    try:
        agent = Agent.model_validate(document.value)
    except ValidationError as error:
        problems = [_problem(path, document, dict(detail)) for detail in error.errors(include_url=False)]
        raise AgentFileError("\n".join(problems)) from error
    problems = []
    for index, stage in enumerate(agent.spec.stages):
        # The webhook's own rules, in its own words: a cluster would say the same, only later.
        found = knative_annotations.validate(autoscaling(stage).annotations(), _LENIENT)
        line = document.line(("spec", "stages", index, "scaling"))
        problems += [f"{path}:{line}: spec.stages.{index}.scaling: {problem}" for problem in found]
    problems += [
        f"{path}:{document.line(location)}: {'.'.join(map(str, location))}{text}"
        for location, text in graph_problems(agent)
    ]
    problems += _gpu_problems(path, document, agent)
    problems += _engine_problems(path, document, agent, tell)
    if problems:
        raise AgentFileError("\n".join(problems))
    # Replicas run in other folders than this command, and may be started much later.
    return agent.with_absolute_models(lambda uri: absolute_uri(uri, folder)).of_folder(folder)


def _gpu_problems(path: Path, document: yaml_locations.Located, agent: Agent) -> list[str]:
    if not any(gpu_of(agent, stage) for stage in agent.spec.stages):
        return []
    named = os.environ.get(PRICES_VARIABLE)
    try:
        prices = read_prices(Path(named) if named else None)
    except (OSError, SpecError) as error:
        raise AgentFileError(f"{PRICES_VARIABLE}={named}: {error}") from error
    found = gpu_problems(agent, prices, named or "the packaged price list")
    return [
        f"{path}:{document.line(location)}: {'.'.join(map(str, location))}{text}" for location, text in found
    ]


def _engine_problems(
    path: Path, document: yaml_locations.Located, agent: Agent, tell: Callable[[str], None]
) -> list[str]:
    """What vLLM would refuse of its options, found before anything is deployed."""
    problems = []
    for index, stage in enumerate(agent.spec.stages):
        if stage.engine is None or stage.engine.type != "vllm" or not stage.engine.args:
            continue
        try:
            found = options.validate(
                stage.engine.args,
                container_concurrency=stage.scaling.container_concurrency,
                cache_dir=default_cache_dir(os.environ),
                asking=lambda: tell("Reading vLLM's options (once for each release; takes some seconds) ..."),
            )
        except ValidationUnavailableError as error:
            tell(f"{path}: spec.stages.{index}.engine.args is not checked: {error}")
            continue
        for problem in found:
            location = ("spec", "stages", index, "engine", "args", problem.option)
            dotted = ".".join(map(str, location[:-1]))
            problems.append(f"{path}:{document.line(location)}: {dotted}.{problem}")
    return problems


def _problem(path: Path, document: yaml_locations.Located, detail: Mapping[str, Any]) -> str:
    location = without_kinds(detail["loc"])
    dotted = ".".join(str(part) for part in location) or "(whole file)"
    message = detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "missing":
            text = f"{dotted}: is missing"
        case "extra_forbidden":
            known = _known_fields(location[:-1])
            text = f"{dotted}: no such field" + (f"; known here: {', '.join(known)}" if known else "")
        case "string_type" if isinstance(detail.get("input"), bool):
            text = f"{dotted} = {json.dumps(detail['input'])}: {TEXT_NOT_BOOLEAN}"
        case _:
            value = detail.get("input")
            # A URL with a password in it is not repeated.
            secret = isinstance(value, str) and "://" in value and "@" in value
            unshown = secret or isinstance(value, dict | list | BaseModel)
            shown = "" if unshown else f" = {json.dumps(value, default=str)}"
            text = f"{dotted}{shown}: {message}"
    return f"{path}:{document.line(location)}: {text}"


def _known_fields(location: yaml_locations.Location) -> list[str]:
    """The field names that the model at `location` has; empty where that is no model of this module."""
    model: type[BaseModel] | None = Agent
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = _model_in(fields[part].annotation) if part in fields else None
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model class inside an annotation such as `list[StageSpec]` or `EngineSpec | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_in(inner)) is not None:
            return found
    return None
