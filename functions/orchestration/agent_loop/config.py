"""What the agent file says of a stage of kind `agent`, as the orchestrate stage gets it (pure)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from functions.graph.nodes import Name
from functions.stage_config import StageConfig

ToolNames = Annotated[tuple[Name, ...], Field(max_length=64, strict=False)]


class TokenPrices(StageConfig):
    """What a model's tokens cost, in dollars for a million."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]


class Bounds(StageConfig):
    """Where the loop ends without an answer of the model; each is looked at before a turn of the model."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 8
    """Turns of the model."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Of prompts and answers together, all turns added."""
    seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None
    """From the loop's begin; a turn or a tool that is under way then is ended."""
    dollars: Annotated[float, Field(gt=0)] | None = None
    """By `prices`, all turns added."""
    prices: TokenPrices | None = None

    @model_validator(mode="after")
    def _dollars_have_prices(self) -> Self:
        if self.dollars is not None and self.prices is None:
            raise ValueError(
                "prices must be given with dollars, for a million tokens: {prompt: 0.2, completion: 0.6}"
            )
        return self


class LoopConfig(StageConfig):
    """One agent."""

    model: Name
    """The stage of kind generate that it asks."""
    tools: ToolNames = ()
    system: Annotated[str, Field(max_length=100_000)] | None = None
    """Goes before the conversation."""
    bounds: Bounds = Bounds()
    tool_choice: Literal["auto", "required"] = "auto"
    """`required`: the first turn must call a tool."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 8
    """Calls of one turn that are made at once."""
