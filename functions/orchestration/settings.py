"""`PILOTLIGHT_GRAPH` in full: the graph, the agents in it, and the tools that these have (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from functions.graph.nodes import Name
from functions.graph.settings import GraphSettings
from functions.orchestration.agent_loop.config import LoopConfig
from functions.orchestration.tools.config import ToolConfig
from functions.problems import field_errors


class OrchestrationSettings(GraphSettings):
    """What an orchestrate stage is told of its agent."""

    tools: dict[Name, ToolConfig] = Field(default_factory=dict)
    agents: dict[Name, LoopConfig] = Field(default_factory=dict)
    """The nodes of the graph that are agents."""

    @model_validator(mode="after")
    def _tools_are_there(self) -> Self:
        for name, agent in self.agents.items():
            unknown = next((tool for tool in agent.tools if tool not in self.tools), None)
            if unknown is not None:
                there = ", ".join(self.tools) or "none"
                raise ValueError(f"agents.{name}.tools: there is no tool {unknown!r} (there: {there})")
        return self

    def kinds(self, stages: Mapping[str, str]) -> dict[str, str]:
        """The kind of everything that the graph may name.

        Args:
            stages: kinds of the stages behind HTTP.

        Raises:
            ValueError: an agent has the name of a stage, or asks one that does not generate.
        """
        for name, agent in self.agents.items():
            if name in stages:
                raise ValueError(f"agents.{name}: is the name of a stage, must be another")
            if stages.get(agent.model) != "generate":
                models = ", ".join(stage for stage, kind in stages.items() if kind == "generate")
                raise ValueError(
                    f"agents.{name}.model = {agent.model!r}: must be a stage of kind generate ({models})"
                )
        return {**stages, **dict.fromkeys(self.agents, "agent")}


def parse_settings(value: Mapping[str, Any]) -> OrchestrationSettings:
    """The settings in a JSON object.

    Raises:
        ValueError: names the field, its value and what would be right.
    """
    try:
        return OrchestrationSettings.model_validate_json(json.dumps(dict(value)))
    except ValidationError as error:
        first = field_errors(error.errors(include_url=False, include_context=False))[0]
        raise ValueError(f"{first['field']} = {first['value']!r}: {first['message']}") from None
