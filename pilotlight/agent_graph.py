"""The graph of an agent file: its nodes, what is wrong with it, and what orchestrate is told (pure)."""

from collections.abc import Callable
from typing import Any

from functions.graph.graph import Graph, GraphProblem, build_graph
from functions.orchestration.agent_loop.config import LoopConfig
from pilotlight.agent import Agent
from pilotlight.secret_mount import SecretMount
from pilotlight.stage_spec import Kind, StageSpec


def is_outside(agent: Agent, stage: StageSpec) -> bool:
    """Whether a stage has no place of its own in the graph: only others call it, or it cannot answer.

    That is a tool, a model that agents ask, what stands in for another stage only (`fallback`), and a model
    that only embeds. `after` gives a model or a stand-in a place as well, an empty one too.
    """
    if stage.kind in {Kind.ORCHESTRATE, Kind.TOOL} or stage.engine_type == "onnx":
        return True
    others = agent.spec.stages
    called = {other.fallback.stage for other in others if other.fallback is not None}
    called |= {other.agent.model for other in others if other.agent is not None}
    return stage.after is None and stage.name in called


def graph_stages(agent: Agent) -> list[StageSpec]:
    """The stages that are nodes, in the order of the file."""
    return [stage for stage in agent.spec.stages if not is_outside(agent, stage)]


def graph_of(agent: Agent) -> Graph | None:
    """The graph; None for an agent whose file has problems."""
    return _built(agent)[0]


Problem = tuple[tuple[str | int, ...], str]
"""A location in the agent file, and a text that goes on from the field's name."""


def graph_problems(agent: Agent) -> list[Problem]:
    """What is wrong with the graph."""
    found = [problem for index in range(len(agent.spec.stages)) for problem in _misplaced(agent, index)]
    if found or agent.orchestrate is None:
        return found
    found += _unknown_names(agent, agent.orchestrate)
    found += _agent_problems(agent)
    places = {stage.name: index for index, stage in enumerate(agent.spec.stages)}
    for problem in _built(agent)[1]:
        path = [part for part in problem.field.split(".") if part]
        found.append((("spec", "stages", places[problem.node], *path), f": {problem.message}"))
    return found


def _misplaced(agent: Agent, index: int) -> list[Problem]:
    """Fields of a stage that is no place for them."""
    stage = agent.spec.stages[index]
    if stage.kind is Kind.AGENT and agent.orchestrate is None:
        return [(("spec", "stages", index, "kind"), ": an agent runs in a stage of kind orchestrate, add it")]
    if stage.colocate and agent.orchestrate is None:
        return [(("spec", "stages", index, "colocate"), ": there is no stage of kind orchestrate to run it")]
    given = stage.graph_fields
    if not given:
        return []
    if agent.orchestrate is None:
        why = " is for agents with a stage of kind orchestrate, which takes requests through the graph"
    elif stage.kind is Kind.ORCHESTRATE:
        given = [name for name in given if name != "after"]
        why = " is for the stages behind orchestrate; it may have after alone"
    elif is_outside(agent, stage):
        why = ": a model of engine onnx only embeds, so the graph cannot call it"
    else:
        return []
    return [(("spec", "stages", index, given[0]), why)] if given else []


def _unknown_names(agent: Agent, entry: StageSpec) -> list[Problem]:
    """Names of stages that do not exist, where the graph itself does not look."""
    found: list[Problem] = []
    names = [stage.name for stage in agent.spec.stages if stage is not entry]
    nodes = [stage.name for stage in graph_stages(agent)]
    for index, stage in enumerate(agent.spec.stages):
        other = None if stage.fallback is None else stage.fallback.stage
        if other is not None and (other not in names or other == stage.name):
            where = ("spec", "stages", index, "fallback", "stage")
            found.append((where, f" = {other!r}: must be another stage (there: {', '.join(names)})"))
        if stage is entry:
            place = ("spec", "stages", index, "after")
            found += [
                (place, f": {name!r} is not in the graph (there: {', '.join(nodes)})")
                for name in entry.after or ()
                if name not in nodes
            ]
    return found


def _agent_problems(agent: Agent) -> list[Problem]:
    """Names in agents that are no model, or no tool."""
    found: list[Problem] = []
    models = [stage.name for stage in agent.spec.stages if stage.engine_type in {"vllm", "openai"}]
    tools = [stage.name for stage in agent.spec.stages if stage.kind is Kind.TOOL]
    for index, stage in enumerate(agent.spec.stages):
        if stage.agent is None:
            continue
        where = ("spec", "stages", index, "agent")
        if stage.agent.model not in models:
            there = ", ".join(models) or "none"
            text = f" = {stage.agent.model!r}: must be a stage of kind generate (there: {there})"
            found.append(((*where, "model"), text))
        else:
            found += _unparsed_calls(agent, stage.agent)
        there = ", ".join(tools) or "none"
        found += [
            ((*where, "tools"), f": {name!r} must be a stage of kind tool (there: {there})")
            for name in stage.agent.tools
            if name not in tools
        ]
    return found


def _unparsed_calls(agent: Agent, loop: LoopConfig) -> list[Problem]:
    """VLLM refuses tools unless it is told how its model writes calls of them."""
    index, model = next(
        (index, stage) for index, stage in enumerate(agent.spec.stages) if stage.name == loop.model
    )
    args = model.engine.args if model.engine else {}
    if model.engine_type != "vllm" or not loop.tools:
        return []
    if args.get("enable-auto-tool-choice") is True and args.get("tool-call-parser"):
        return []
    text = (
        ": must have enable-auto-tool-choice: true and tool-call-parser: NAME, such as hermes, for the "
        "tools of agents that ask this model"
    )
    return [(("spec", "stages", index, "engine", "args"), text)]


def graph_settings(agent: Agent, url_of: Callable[[StageSpec], str]) -> dict[str, Any] | None:
    """`PILOTLIGHT_GRAPH` of the orchestrate stage; None where its stages stand in one line.

    Args:
        agent: as checked.
        url_of: gives the address of a stage's Service.
    """
    nodes = graph_stages(agent)
    entry = agent.orchestrate
    called = [stage for stage in agent.spec.stages if stage.is_called]
    results = () if entry is None else entry.after or ()
    if not results and nodes == called and not any(stage.graph_fields for stage in nodes):
        return None
    options = [
        stage.node_options.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_defaults=True, exclude={"after"}
        )
        # An empty list is not the default: the stage begins.
        | ({} if stage.after is None else {"after": list(stage.after)})
        for stage in nodes
    ]
    settings: dict[str, Any] = {
        "nodes": [{"name": stage.name, **given} for stage, given in zip(nodes, options, strict=True)]
    }
    if results:
        settings["results"] = list(results)
    agents = {stage.name: stage.agent for stage in nodes if stage.agent is not None}
    if agents:
        settings["agents"] = {
            name: loop.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
            for name, loop in agents.items()
        }
        used = {tool for loop in agents.values() for tool in loop.tools}
        settings["tools"] = {
            stage.name: stage.tool.config(url_of(stage) if stage.has_service else None)
            for stage in agent.spec.stages
            if stage.tool is not None and stage.name in used
        }
    return settings


def tool_mounts(agent: Agent, stage: StageSpec) -> list[SecretMount]:
    """The Secrets with the header fields of tools, which orchestrate sends."""
    if stage.kind is not Kind.ORCHESTRATE:
        return []
    headers = [header for other in agent.spec.stages if other.tool for header in other.tool.headers.values()]
    return list(dict.fromkeys(header.mount for header in headers))


def _built(agent: Agent) -> tuple[Graph | None, list[GraphProblem]]:
    entry = agent.orchestrate
    nodes = [(stage.name, stage.kind.value, stage.node_options) for stage in graph_stages(agent)]
    known = {name for name, _, _ in nodes}
    results = [name for name in (entry.after or () if entry else ()) if name in known]
    return build_graph(nodes, results) if nodes else (None, [])
