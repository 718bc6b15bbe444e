"""A graph of stages: what is wrong with one, and what of it is certain to run (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from functions.graph.conditions import Condition
from functions.graph.nodes import MAX_NODES, GraphNode, NodeOptions


@dataclass(frozen=True, slots=True)
class GraphProblem:
    """What is wrong with a node."""

    node: str
    field: str
    """Below the node, such as `switch.key`."""
    message: str


@dataclass(frozen=True)
class Graph:
    """Nodes without a cycle, in an order in which each stands behind those that it waits for.

    Attributes:
        nodes: in that order.
        results: the nodes whose outputs are the answer; empty: those behind which nothing has run.
    """

    nodes: tuple[GraphNode, ...]
    results: tuple[str, ...] = ()
    by_name: Mapping[str, GraphNode] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})

    @cached_property
    def successors(self) -> Mapping[str, tuple[str, ...]]:
        """For each node those that wait for it."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for before in node.after:
                found[before].append(node.name)
        return {name: tuple(names) for name, names in found.items()}

    @cached_property
    def conditions(self) -> Mapping[str, Mapping[str, Condition]]:
        """Each node's compiled expressions by field."""
        return {node.name: conditions_of(node.options) for node in self.nodes}


def conditions_of(options: NodeOptions) -> dict[str, Condition]:
    """The compiled expressions of a node, by field.

    Raises:
        ValueError: one that is none.
    """
    return {name: Condition(source) for name, source in _sources(options)}


def _sources(options: NodeOptions) -> list[tuple[str, str]]:
    found = [
        ("when", options.when),
        ("input", options.input),
        ("switch.key", options.switch.key if options.switch else None),
        ("map.items", options.map.items if options.map else None),
    ]
    return [(name, source) for name, source in found if source is not None]


def build_graph(
    nodes: Sequence[tuple[str, str, NodeOptions]], results: Sequence[str] = ()
) -> tuple[Graph | None, list[GraphProblem]]:
    """The graph of nodes in the order of their list, and what is wrong with it.

    Args:
        nodes: name, kind and options of each.
        results: see `Graph`.

    Returns:
        The graph, or None with at least one problem.
    """
    names = [name for name, _, _ in nodes]
    problems: list[GraphProblem] = []
    if len(names) > MAX_NODES:
        problems.append(
            GraphProblem(names[0], "", f"the graph has {len(names)} stages, must be at most {MAX_NODES}")
        )
    placed: list[GraphNode] = []
    for at, (name, kind, options) in enumerate(nodes):
        after = options.after if options.after is not None else tuple(names[at - 1 : at])
        problems += _unknown(name, "after", after, names)
        if name in after:
            problems.append(GraphProblem(name, "after", f"{name!r} is the stage itself, must be another"))
        placed.append(GraphNode(name, kind, tuple(dict.fromkeys(after)), options))
    if problems:
        return None, problems
    ordered = _ordered(placed)
    if len(ordered) < len(placed):
        left = [node for node in placed if node not in ordered]
        cycle = _cycle(left)
        return None, [GraphProblem(cycle[0], "after", f"goes in a circle: {' -> '.join([*cycle, cycle[0]])}")]
    graph = Graph(tuple(ordered), tuple(results))
    for node in placed:
        problems += _switch_problems(graph, node)
        problems += _expression_problems(graph, node)
    return (None, problems) if problems else (graph, [])


def ancestors(graph: Graph, name: str) -> frozenset[str]:
    """All nodes that have ended, or will not run, before a node."""
    found: set[str] = set()
    left = list(graph.by_name[name].after)
    while left:
        before = left.pop()
        if before not in found:
            found.add(before)
            left.extend(graph.by_name[before].after)
    return frozenset(found)


def _unknown(name: str, where: str, given: Iterable[str], names: Sequence[str]) -> list[GraphProblem]:
    return [
        GraphProblem(name, where, f"there is no stage {other!r} in the graph (there: {', '.join(names)})")
        for other in given
        if other not in names
    ]


def _switch_problems(graph: Graph, node: GraphNode) -> list[GraphProblem]:
    switch = node.options.switch
    if switch is None:
        return []
    behind = graph.successors[node.name]
    problems = [
        GraphProblem(node.name, "switch", f"{target!r} must be a stage with after: [{node.name}]")
        for target in sorted(switch.targets)
        if target not in behind
    ]
    problems += [
        GraphProblem(name, "after", f"is not a target of the switch of {node.name!r}, must be one of them")
        for name in behind
        if name not in switch.targets
    ]
    if node.options.when is not None and node.options.otherwise == "pass":
        problems.append(
            GraphProblem(
                node.name, "otherwise", "must be skip with when and switch: nothing would be switched"
            )
        )
    return problems


def _expression_problems(graph: Graph, node: GraphNode) -> list[GraphProblem]:
    problems = []
    before = ancestors(graph, node.name)
    for name, source in _sources(node.options):
        try:
            condition = Condition(source)
        except ValueError as error:
            problems.append(GraphProblem(node.name, name, str(error)))
            continue
        readable = before | {node.name} if name == "switch.key" else before
        for other in sorted(condition.stages - readable):
            if other in graph.by_name:
                message = f"stage {other!r} may not have ended by then; must be before {node.name!r} (after)"
            else:
                message = f"there is no stage {other!r} in the graph (there: {', '.join(graph.by_name)})"
            problems.append(GraphProblem(node.name, name, message))
    return problems


def _ordered(nodes: Sequence[GraphNode]) -> list[GraphNode]:
    """The nodes behind those that they wait for, else in their list's order; without those of a circle."""
    ordered: list[GraphNode] = []
    placed: set[str] = set()
    left = list(nodes)
    while ready := next((node for node in left if placed.issuperset(node.after)), None):
        ordered.append(ready)
        placed.add(ready.name)
        left.remove(ready)
    return ordered


def _cycle(nodes: Sequence[GraphNode]) -> list[str]:
    """A circle, in the direction of the work, among nodes that are in one or behind one."""
    waiting = {node.name: node for node in nodes}
    order = {node.name: at for at, node in enumerate(nodes)}
    path = [nodes[0].name]
    while True:
        before = next(name for name in waiting[path[-1]].after if name in waiting)
        if before in path:
            circle = path[path.index(before) :][::-1]
            first = min(range(len(circle)), key=lambda at: order[circle[at]])
            return circle[first:] + circle[:first]
        path.append(before)
