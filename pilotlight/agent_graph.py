"""The graph of an agent file: its nodes, what is wrong with it, and what orchestrate is told (pure)."""

from typing import Any

from functions.graph.graph import Graph, GraphProblem, build_graph
from functions.graph.settings import GraphSettings, NodeEntry
from pilotlight.agent import Agent
from pilotlight.stage_spec import Kind, StageSpec


def is_outside(agent: Agent, stage: StageSpec) -> bool:
    """Whether a stage has no place of its own in the graph: only others call it, or it cannot answer.

    That is what stands in for another stage only (`fallback`), and a model that only embeds. `after` gives a
    stage a place, an empty one too.
    """
    if stage.kind is Kind.ORCHESTRATE or stage.engine_type == "onnx":
        return True
    return stage.after is None and stage.name in {
        other.fallback.stage for other in agent.spec.stages if other.fallback is not None
    }


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
    places = {stage.name: index for index, stage in enumerate(agent.spec.stages)}
    for problem in _built(agent)[1]:
        path = [part for part in problem.field.split(".") if part]
        found.append((("spec", "stages", places[problem.node], *path), f": {problem.message}"))
    return found


def _misplaced(agent: Agent, index: int) -> list[Problem]:
    """Fields of a stage that is no place for them."""
    stage = agent.spec.stages[index]
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


def graph_settings(agent: Agent) -> dict[str, Any] | None:
    """`PILOTLIGHT_GRAPH` of the orchestrate stage; None where its stages stand in one line."""
    nodes = graph_stages(agent)
    others = [stage for stage in agent.spec.stages if stage is not agent.orchestrate]
    entry = agent.orchestrate
    results = () if entry is None else entry.after or ()
    if not results and nodes == others and not any(stage.graph_fields for stage in nodes):
        return None
    entries = tuple(NodeEntry.model_construct(name=stage.name, **dict(stage.node_options)) for stage in nodes)
    settings = GraphSettings.model_construct(nodes=entries, results=results)
    return settings.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def _built(agent: Agent) -> tuple[Graph | None, list[GraphProblem]]:
    entry = agent.orchestrate
    nodes = [(stage.name, stage.kind.value, stage.node_options) for stage in graph_stages(agent)]
    known = {name for name, _, _ in nodes}
    results = [name for name in (entry.after or () if entry else ()) if name in known]
    return build_graph(nodes, results) if nodes else (None, [])
