"""`triggers:` of an agent file: queues whose messages are posted to a stage."""

from typing import Annotated, Literal

from pydantic import Field

from triggers.spec.field_types import Name, Path
from triggers.spec.trigger import TriggerTemplate


class AgentTrigger(TriggerTemplate):
    """One queue of an agent."""

    name: Name
    stage: Name | None = None
    """The stage that gets the events; by default the agent's entry."""
    path: Path | None = None
    """By default `/invoke`, and `/` of a stage of kind container."""
    delivery: Literal["dispatcher", "eventing"] = "dispatcher"
    """Who delivers on a cluster: our dispatcher, or a source of Knative Eventing, which knows less."""
    wake_ahead: bool | Annotated[tuple[Name, ...], Field(strict=False)] = True
    """Stages to wake the moment a message is seen: all others, none, or those named."""
