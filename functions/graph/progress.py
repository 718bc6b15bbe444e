"""How far a request has come through a graph, and what follows from it (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from functions.graph.graph import Graph
from functions.graph.nodes import Switch

STREAMING_KINDS = frozenset({"generate", "agent"})
"""Kinds of nodes whose output comes in pieces."""


class Outcome(StrEnum):
    """What has become of a node."""

    RAN = "ran"
    PASSED = "passed"
    """Its condition did not hold: what is behind it gets what it would have got."""
    SKIPPED = "skipped"
    """The request does not come this way."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A node that is done with."""

    outcome: Outcome
    chosen: frozenset[str] | None = None
    """The nodes behind it that its switch has chosen; None without a switch."""


Progress = Mapping[str, Ended]
"""The nodes that are done with."""


def ready(graph: Graph, progress: Progress, begun: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The nodes that neither have ended nor begun, and wait for nothing."""
    return tuple(
        node.name
        for node in graph.nodes
        if node.name not in progress
        and node.name not in begun
        and all(before in progress for before in node.after)
    )


def is_taken(graph: Graph, progress: Progress, name: str) -> bool:
    """Whether a request comes to a node that waits for nothing any more."""
    after = graph.by_name[name].after
    return not after or any(_leads(progress, before, name) for before in after)


def sources(graph: Graph, progress: Progress, name: str) -> tuple[str, ...]:
    """The nodes whose outputs are a node's input; empty: it gets the request's own."""
    return _sources(graph, progress, name, {})


def _sources(
    graph: Graph, progress: Progress, name: str, known: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The sources; `known` has those of nodes that were looked at, for many ways may lead to one."""
    if name not in known:
        before = [other for other in graph.by_name[name].after if _leads(progress, other, name)]
        known[name] = _outputs(graph, progress, before, known)
    return known[name]


def results(graph: Graph, progress: Progress) -> tuple[str, ...]:
    """The nodes whose outputs are the answer; empty: none has run, and the answer is the request's input."""
    if graph.results:
        taken = [name for name in graph.results if progress[name].outcome is not Outcome.SKIPPED]
        return _outputs(graph, progress, taken, {})
    ran = [node.name for node in graph.nodes if progress[node.name].outcome is Outcome.RAN]
    followed: set[str] = set()
    for name in reversed([node.name for node in graph.nodes]):
        behind = graph.successors[name]
        if any(other in ran or other in followed for other in behind if _leads(progress, name, other)):
            followed.add(name)
    return tuple(name for name in ran if name not in followed)


def tail(graph: Graph, progress: Progress, name: str) -> tuple[str, ...] | None:
    """The node and those behind it, if its output can be streamed through them to the client.

    That is so where nothing else is left to do: they stand in one line, each does nothing but work on what
    the one before it gives, and none behind the first would stream by itself.

    Args:
        graph: of the agent.
        progress: so far; the node itself waits for nothing.
        name: of the node.
    """
    first = graph.by_name[name]
    options = first.options
    if first.kind not in STREAMING_KINDS or options.map or options.switch or options.fallback:
        return None
    line = [name]
    while behind := [other for other in graph.successors[line[-1]] if other not in progress]:
        following = graph.by_name[behind[0]]
        joins = any(
            _leads(progress, before, following.name)
            for before in following.after
            if before not in line and before in progress
        )
        waits = any(before not in line and before not in progress for before in following.after)
        if len(behind) > 1 or joins or waits or not following.options.is_plain:
            return None
        if following.kind in STREAMING_KINDS:
            return None
        line.append(following.name)
    left = {node.name for node in graph.nodes} - progress.keys()
    whole = left == set(line) and graph.results in ((), (line[-1],))
    return tuple(line) if whole else None


def choose(switch: Switch, *, key: str | None, request_id: str, name: str) -> frozenset[str]:
    """The nodes that a switch lets run.

    Args:
        switch: of the node.
        key: the value of its expression; None for one by weights.
        request_id: decides between weights, so that a request that is worked on again takes the same way.
        name: of the node.
    """
    if switch.weights is None:
        return frozenset(switch.cases.get(key or "", switch.default))
    digest = hashlib.sha256(f"{request_id}/{name}".encode()).digest()
    point = int.from_bytes(digest[:8]) / 2**64 * sum(switch.weights.values())
    for target, weight in switch.weights.items():
        point -= weight
        if point < 0:
            return frozenset({target})
    return frozenset(
        {max(switch.weights, key=lambda target: switch.weights[target] if switch.weights else 0)}
    )


def _leads(progress: Progress, before: str, name: str) -> bool:
    ended = progress[before]
    return ended.outcome is not Outcome.SKIPPED and (ended.chosen is None or name in ended.chosen)


def _outputs(
    graph: Graph, progress: Progress, names: list[str], known: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Of these nodes those that ran; where none did, what they would have got."""
    ran = tuple(name for name in names if progress[name].outcome is Outcome.RAN)
    if ran:
        return ran
    found = [other for name in names for other in _sources(graph, progress, name, known)]
    return tuple(dict.fromkeys(found))


def certain(graph: Graph, progress: Progress) -> tuple[str, ...]:
    """The nodes still to come that run whatever the replies will be."""
    sure: list[str] = []
    leading: set[str] = set()  # nodes that the request comes to for sure, and goes on from
    for node in graph.nodes:
        if node.name in progress:
            continue
        ways = [before for before in node.after if _is_sure_way(graph, progress, leading, before, node.name)]
        if node.after and not ways:
            continue
        options = node.options
        if options.when is None or options.otherwise == "pass":
            leading.add(node.name)
        if options.when is None and options.map is None:
            sure.append(node.name)
    return tuple(sure)


def _is_sure_way(graph: Graph, progress: Progress, leading: set[str], before: str, name: str) -> bool:
    if before in progress:
        return _leads(progress, before, name)
    return before in leading and graph.by_name[before].options.switch is None
