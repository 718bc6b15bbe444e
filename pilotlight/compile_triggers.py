"""The Trigger objects of an agent's queues (pure)."""

from typing import Any

from pilotlight.agent import Agent
from pilotlight.agent_triggers import AgentTrigger
from pilotlight.compile_access import stage_token_secret
from pilotlight.stage_spec import Kind, StageSpec
from triggers.spec.trigger import Target, TargetAuth, TriggerSpec, TriggerTemplate


def trigger_object(agent: Agent, trigger: AgentTrigger) -> dict[str, Any]:
    """The Trigger object of one queue."""
    stages = {stage.name: stage for stage in agent.spec.services}
    target = stages[trigger.stage or agent.entry().name]
    path = trigger.path or ("/" if target.is_own_image else "/invoke")
    spec = TriggerSpec(
        **{name: getattr(trigger, name) for name in TriggerTemplate.model_fields},
        target=Target(service=agent.service_name(target), path=path, auth=_auth(agent, target)),
        wake_ahead=tuple(agent.service_name(stage) for stage in _to_wake(agent, trigger, target)),
    )
    return spec.to_object(f"{trigger.name}-{agent.metadata.name}", agent.metadata.namespace)


def _to_wake(agent: Agent, trigger: AgentTrigger, target: StageSpec) -> list[StageSpec]:
    named = trigger.wake_ahead
    if isinstance(named, bool):
        return [stage for stage in agent.spec.services if named and stage is not target]
    return [stage for name in named for stage in agent.spec.services if stage.name == name]


def _auth(agent: Agent, target: StageSpec) -> TargetAuth | None:
    """The key that the file names, else the token of the agent's stages where it says who may call."""
    if agent.spec.dispatcher.target_key is not None:
        return TargetAuth(bearer=agent.spec.dispatcher.target_key)
    if not any(stage.kind is Kind.ORCHESTRATE for stage in agent.spec.services):
        return None
    if agent.spec.auth is None or target.is_own_image:
        return None
    return TargetAuth(stage_token=stage_token_secret(agent.metadata.name))
