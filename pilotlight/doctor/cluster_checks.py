"""All checks of a cluster, in the order of the report (pure)."""

from collections.abc import Iterator, Mapping, Sequence

from pilotlight.agent import Agent
from pilotlight.doctor import (
    addon_checks,
    gpu_checks,
    model_checks,
    object_checks,
    quantization_checks,
    serving_checks,
)
from pilotlight.doctor.cluster_facts import ClusterFacts
from pilotlight.doctor.findings import Finding, Unknown
from pilotlight.doctor.model_memory import ModelFacts
from pilotlight.doctor.needs import StageNeeds


def check(
    facts: ClusterFacts,
    agents: Sequence[Agent],
    needs: Sequence[StageNeeds],
    models: Mapping[str, ModelFacts | Unknown],
) -> Iterator[Finding]:
    """Every finding; only that of the API where it does not answer."""
    yield from serving_checks.api(facts)
    if isinstance(facts.version, Unknown):
        return
    yield from serving_checks.rights(facts)
    yield from serving_checks.version(facts)
    if facts.serving is None:
        return
    yield from serving_checks.flags(facts, needs)
    yield from serving_checks.limits(facts, needs)
    deliveries = {trigger.delivery for agent in agents for trigger in agent.spec.triggers}
    yield from addon_checks.addons(facts, pools=any(map(has_pools, agents)), deliveries=deliveries)
    yield from gpu_checks.gpus(facts, needs)
    yield from object_checks.claims(facts, needs)
    yield from object_checks.host_paths(facts, needs)
    yield from object_checks.named_objects(facts, needs)
    yield from object_checks.access(facts, needs)
    yield from model_checks.images(facts, needs)
    yield from model_checks.model_places(facts, agents, needs)
    if not facts.local:
        # One machine has no GPU of the type that the file names, so there is nothing to hold a model against.
        yield from model_checks.memory(agents, needs, models)
    yield from quantization_checks.quantization(agents, models, gpus=not facts.local)
    yield from model_checks.cold_starts(facts, needs, models)


def has_pools(agent: Agent) -> bool:
    """Whether an agent has warm pools."""
    return any(agent.pool(stage) is not None for stage in agent.spec.services)
