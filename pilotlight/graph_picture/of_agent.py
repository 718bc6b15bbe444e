"""The picture of an agent file's graph (pure)."""

from functions.graph.graph import Graph
from functions.graph.nodes import GraphNode, Switch
from pilotlight.agent import Agent
from pilotlight.agent_graph import graph_of
from pilotlight.compile_runs import runs_of
from pilotlight.graph_picture.values import BEGIN, END, Arrow, Box, Picture
from pilotlight.stage_spec import StageSpec

_LONGEST = 52
"""Characters of a note; the agent file has the whole expression."""
_BEGIN_ID, _END_ID = "<", ">"
"""No stage's name."""


def picture_of(agent: Agent) -> Picture:
    """The graph with what its stages call: tools, models of agents, stand-ins.

    An agent without orchestrate has no graph: its stages are boxes, and requests come to the first.
    """
    graph = graph_of(agent) if agent.orchestrate is not None else None
    shown = [stage for stage in agent.spec.stages if stage is not agent.orchestrate]
    boxes = [Box(stage.name, stage.name, stage.kind.value, _notes(agent, stage)) for stage in shown]
    entry = agent.entry()
    begin = Box(_BEGIN_ID, BEGIN, BEGIN, (f"to {agent.service_name(entry)}",))
    if graph is None:
        return Picture(agent.metadata.name, (begin, *boxes), (Arrow(_BEGIN_ID, entry.name),))
    arrows = [arrow for node in graph.nodes for arrow in _ways(graph, node)]
    arrows += [arrow for stage in shown for arrow in _calls(stage)]
    return Picture(agent.metadata.name, (begin, *boxes, Box(_END_ID, END, END)), tuple(arrows))


def _ways(graph: Graph, node: GraphNode) -> list[Arrow]:
    """The arrows to a node, and those from it to the answer."""
    arrows = [Arrow(before, node.name, _choice(graph.by_name[before], node.name)) for before in node.after]
    if not node.after:
        arrows.append(Arrow(_BEGIN_ID, node.name))
    behind = graph.successors[node.name]
    if graph.results:
        return [*arrows, Arrow(node.name, _END_ID)] if node.name in graph.results else arrows
    if not behind:
        arrows.append(Arrow(node.name, _END_ID))
    elif _may_be_last(graph, node):
        arrows.append(Arrow(node.name, _END_ID, "none of them"))
    return arrows


def _may_be_last(graph: Graph, node: GraphNode) -> bool:
    """Whether it may be that nothing behind a node runs, so that its output is the answer."""
    switch = node.options.switch
    if switch is not None and switch.key is not None and not switch.default:
        return True
    skips = [_may_be_skipped(graph.by_name[name]) for name in graph.successors[node.name]]
    return all(skips) if switch is None else any(skips)


def _may_be_skipped(node: GraphNode) -> bool:
    return node.options.when is not None and node.options.otherwise == "skip"


def _choice(before: GraphNode, name: str) -> str:
    """When a switch takes the way to a node."""
    switch = before.options.switch
    if switch is None:
        return ""
    if switch.weights is not None:
        return f"{100 * switch.weights[name] / sum(switch.weights.values()):.3g} %"
    return _short(" or ".join(_cases(switch, name)))


def _cases(switch: Switch, name: str) -> list[str]:
    cases = [case for case, targets in switch.cases.items() if name in targets]
    return [*cases, *(["else"] if name in switch.default else [])]


def _calls(stage: StageSpec) -> list[Arrow]:
    """What a stage calls itself, and what is called in its place."""
    arrows = []
    if stage.fallback is not None and stage.fallback.stage is not None:
        arrows.append(Arrow(stage.name, stage.fallback.stage, "if it fails", dotted=True))
    if stage.agent is not None:
        arrows.append(Arrow(stage.name, stage.agent.model, "asks", dotted=True))
        arrows += [Arrow(stage.name, tool, "calls", dotted=True) for tool in stage.agent.tools]
    return arrows


def _notes(agent: Agent, stage: StageSpec) -> tuple[str, ...]:
    runs = None if agent.orchestrate is None else runs_of(agent.orchestrate)
    approved = runs is not None and stage.name in runs.config.approve
    notes = [*_what(agent, stage), *_when(stage), *_limits(stage)]
    return tuple(map(_short, [*notes, *(["once a person approves, in a durable run"] if approved else [])]))


def _what(agent: Agent, stage: StageSpec) -> list[str]:
    """Which program or model it is."""
    notes = []
    if stage.module is not None:
        notes.append(f"module {stage.module}")
    model = agent.spec.model_of(stage) if stage.engine_type is not None else None
    if model is not None:
        notes.append(f"model {model.name or (model.uri or '').rstrip('/').rpartition('/')[2]}")
    if stage.tool is not None and stage.tool.url is not None:
        notes.append(f"at {stage.tool.url.partition('?')[0]}")
    return notes


def _when(stage: StageSpec) -> list[str]:
    """When it is called, and on what."""
    notes = []
    if stage.when is not None:
        notes.append(f"when {stage.when}" + (", else skip" if stage.otherwise == "skip" else ""))
    if stage.map is not None:
        notes.append(f"for each of {stage.map.items}")
        notes.append(f"{stage.map.concurrency} at once")
    if stage.input is not None:
        notes.append(f"input {stage.input}")
    if stage.switch is not None and stage.switch.key is not None:
        notes.append(f"switch {stage.switch.key}")
    return notes


def _limits(stage: StageSpec) -> list[str]:
    notes = []
    if stage.call_seconds is not None:
        notes.append(f"at most {stage.call_seconds:g} s")
    if stage.fallback is not None and stage.fallback.text is not None:
        notes.append(f"if it fails: {stage.fallback.text!r}")
    if stage.agent is not None:
        notes.append(f"at most {stage.agent.bounds.steps} turns")
    return notes


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
