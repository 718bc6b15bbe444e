"""`triggers:` of an agent file: queues whose messages are posted to a stage, as Trigger objects."""

from typing import Annotated, Any, Literal

from pydantic import Field

from triggers.spec.field_types import Name, Path
from triggers.spec.trigger import Target, TriggerSpec, TriggerTemplate


class AgentTrigger(TriggerTemplate):
    """One queue of an agent."""

    name: Name
    stage: Name | None = None
    """The stage that gets the events; by default the agent's entry."""
    path: Path = "/invoke"
    delivery: Literal["dispatcher", "eventing"] = "dispatcher"
    """Who delivers on a cluster: our dispatcher, or a source of Knative Eventing, which knows less."""
    wake_ahead: bool | Annotated[tuple[Name, ...], Field(strict=False)] = True
    """Stages to wake the moment a message is seen: all others, none, or those named."""

    def to_object(
        self, *, agent: str, namespace: str, service: str, others: list[str], services: dict[str, str]
    ) -> dict[str, Any]:
        """The Trigger object.

        Args:
            agent: its name.
            namespace: its namespace.
            service: of the stage that gets the events.
            others: the Services of all other stages.
            services: the Service of each stage by its name.
        """
        named = self.wake_ahead
        wake = others if named is True else [services[stage] for stage in named] if named else []
        spec = TriggerSpec(
            **{name: getattr(self, name) for name in TriggerTemplate.model_fields},
            target=Target(service=service, path=self.path),
            wake_ahead=tuple(wake),
        )
        return spec.to_object(f"{self.name}-{agent}", namespace)
