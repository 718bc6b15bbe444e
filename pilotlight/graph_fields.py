"""The fields of a stage that bind it into the agent's graph; `functions.graph.nodes` says what each does."""

from typing import Annotated, Literal

from pydantic import Field

from functions.graph.nodes import Expression, Fallback, Map, Names, NodeOptions, Switch
from pilotlight.agent_values import AgentModel


class GraphFields(AgentModel):
    """How a stage is bound into the graph; without any it runs behind the one before it in the list."""

    after: Names | None = None
    when: Expression | None = None
    otherwise: Literal["pass", "skip"] = "pass"
    input: Expression | None = None
    switch: Switch | None = None
    map: Map | None = None
    attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    call_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    fallback: Fallback | None = None

    @property
    def node_options(self) -> NodeOptions:
        """The fields as orchestrate gets them."""
        return NodeOptions.model_construct(**{name: getattr(self, name) for name in NodeOptions.model_fields})

    @property
    def graph_fields(self) -> list[str]:
        """Those that are given, spelt as in the file."""
        fields = GraphFields.model_fields
        return [str(fields[name].alias) for name in fields if name in self.model_fields_set]
