"""The fields of a stage that bind it into the agent's graph; `functions.graph.nodes` says what each does."""

from functions.graph.nodes import NodeFields, NodeOptions
from pilotlight.agent_values import AgentModel


class GraphFields(NodeFields, AgentModel):
    """The fields in the agent file."""

    @property
    def node_options(self) -> NodeOptions:
        """The fields as orchestrate gets them."""
        return NodeOptions.model_construct(**{name: getattr(self, name) for name in NodeOptions.model_fields})

    @property
    def graph_fields(self) -> list[str]:
        """Those that are given, spelt as in the file."""
        fields = GraphFields.model_fields
        return [str(fields[name].alias) for name in fields if name in self.model_fields_set]
