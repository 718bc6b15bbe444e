"""The agents of an orchestrate stage, opened once for each replica."""

from __future__ import annotations

from collections.abc import Mapping

from functions.orchestration.agent_loop.agent_node import AgentNode
from functions.orchestration.nodes import Node
from functions.orchestration.settings import OrchestrationSettings
from functions.orchestration.tools.http_calls import Caller
from functions.orchestration.tools.toolbox import open_toolbox


def open_agents(
    settings: OrchestrationSettings, nodes: Mapping[str, Node], caller: Caller
) -> dict[str, Node]:
    """The node of each agent.

    Args:
        settings: of the orchestrate stage.
        nodes: of the stages, which the agents ask.
        caller: of their tools.
    """
    return {
        name: AgentNode(
            name,
            config,
            nodes[config.model],
            open_toolbox({tool: settings.tools[tool] for tool in config.tools}, caller),
        )
        for name, config in settings.agents.items()
    }
