"""`PILOTLIGHT_GRAPH`: how the stages of `PILOTLIGHT_STAGES` are bound together (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from functions.graph.graph import Graph, build_graph
from functions.graph.nodes import MAX_NODES, Name, NodeOptions
from functions.stage_config import StageConfig


class NodeEntry(NodeOptions):
    """One node."""

    name: Name

    @property
    def options(self) -> NodeOptions:
        """Without the name."""
        return NodeOptions.model_construct(**{key: getattr(self, key) for key in NodeOptions.model_fields})


class GraphSettings(StageConfig):
    """The graph; stages that it does not name are called by others only, such as fallbacks."""

    nodes: Annotated[tuple[NodeEntry, ...], Field(min_length=1, max_length=MAX_NODES)]
    results: tuple[Name, ...] = ()
    """The nodes whose outputs are the answer; none: those behind which nothing has run."""


def graph_of(kinds: Mapping[str, str], settings: GraphSettings | None, skipped: Sequence[str] = ()) -> Graph:
    """The graph of an agent's stages; without settings one line in the order of the stages.

    Args:
        kinds: of the stages, by name, in order.
        settings: of the graph.
        skipped: kinds that are no part of a line.

    Raises:
        ValueError: names the node, the field, and what would be right.
    """
    if settings is None:
        entries = [(name, kind, NodeOptions()) for name, kind in kinds.items() if kind not in skipped]
        results: tuple[str, ...] = ()
    else:
        unknown = next((node.name for node in settings.nodes if node.name not in kinds), None)
        if unknown is not None:
            raise ValueError(f"nodes: there is no stage {unknown!r} (there: {', '.join(kinds)})")
        entries = [(node.name, kinds[node.name], node.options) for node in settings.nodes]
        results = settings.results
    graph, problems = build_graph(entries, results)
    if graph is None:
        first = problems[0]
        raise ValueError(f"{first.node}.{first.field}: {first.message}")
    return graph
