"""The nodes of a graph as the agent file and `PILOTLIGHT_GRAPH` have them (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

from functions.graph.conditions import MAX_EXPRESSION_CHARS
from functions.stage_config import StageConfig

MAX_MAP_ITEMS: Final = 256
"""Items of one `map`; each is a call of the stage."""
MAX_NODES: Final = 100

Name = Annotated[str, Field(min_length=1, max_length=63)]
# Not strict: agent files have lists.
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_NODES, strict=False)]
Expression = Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION_CHARS)]


class Switch(StageConfig):
    """Which of the stages behind this one run: one of several by weight, or those of a case."""

    weights: Annotated[dict[Name, Annotated[float, Field(ge=0)]], Field(min_length=1)] | None = None
    """Shares of requests by the stage that takes them."""
    key: Expression | None = None
    """CEL that gives a text; the stages of its case run."""
    cases: dict[str, Names] = Field(default_factory=dict)
    default: Names = ()
    """Those that run where no case has the key."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.weights is None) == (self.key is None):
            raise ValueError("must have either weights, or key and cases")
        if self.weights is not None and (self.cases or self.default):
            raise ValueError("cases and default are for key, not for weights")
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError("weights must not all be 0")
        if self.key is not None and not self.cases:
            raise ValueError("cases must be given with key")
        return self

    @property
    def targets(self) -> frozenset[str]:
        """All stages that it may choose."""
        cases = (name for names in self.cases.values() for name in names)
        return frozenset([*(self.weights or {}), *cases, *self.default])


class Map(StageConfig):
    """The stage is called once for each item of a list."""

    items: Expression
    """CEL that gives the list."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Calls at once."""


class Fallback(StageConfig):
    """What stands in for a stage that fails."""

    stage: Name | None = None
    """Called with the same input; a stage that is not in the graph by itself."""
    text: Annotated[str, Field(max_length=100_000)] | None = None
    """The output."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.stage is None) == (self.text is None):
            raise ValueError("must have either stage or text")
        return self


class NodeFields(BaseModel):
    """How a stage is bound into the graph; without any it runs behind the one before it in the list.

    The agent file's stages have these fields beside their own.
    """

    after: Names | None = None
    """The stages that it waits for; empty for one that begins. None: the one before it in the list."""
    when: Expression | None = None
    """CEL: the stage is called only if it holds."""
    otherwise: Literal["pass", "skip"] = "pass"
    """Where `when` does not hold: go on as if the stage was not there, or do not take this way."""
    input: Expression | None = None
    """CEL that gives the stage's input, instead of the output of those before it."""
    switch: Switch | None = None
    map: Map | None = None
    attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    """Posts for one request, instead of the orchestrate stage's `attempts`."""
    call_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """How long one call of the stage may take; at most the request's deadline."""
    fallback: Fallback | None = None


class NodeOptions(NodeFields, StageConfig):
    """The fields as the orchestrate stage gets them."""

    @property
    def is_plain(self) -> bool:
        """Whether the stage does nothing else than work on what comes from the stage before it."""
        return self.model_copy(update={"after": None, "attempts": None}) == NodeOptions()


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One stage in a graph, whose predecessors are known."""

    name: str
    kind: str
    after: tuple[str, ...]
    options: NodeOptions
