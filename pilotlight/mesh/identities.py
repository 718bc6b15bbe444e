"""Which ServiceAccounts run an agent's stages, and which may call each of them (pure)."""

from dataclasses import dataclass
from typing import Any

from knative.labels import AGENT_LABEL
from pilotlight.agent import Agent
from pilotlight.compile_runs import is_woken, waker_name
from pilotlight.stage_spec import Kind, StageSpec

SERVING_NAMESPACE = "knative-serving"
"""Of Knative's activator and autoscaler, where Knative's own manifests put them."""


@dataclass(frozen=True)
class Callers:
    """Who may send requests to a stage.

    Attributes:
        accounts: `(namespace, ServiceAccount)` of workloads that call it.
        namespaces: whose workloads all may: Knative's activator, and the ingress.
    """

    accounts: tuple[tuple[str, str], ...]
    namespaces: tuple[str, ...]


def account_of(agent: Agent, stage: StageSpec) -> str:
    """The ServiceAccount of a stage: the file's own, else one that only this stage has."""
    given = stage.service_account_name or agent.spec.service_account_name
    return given or f"{agent.metadata.name}-{stage.name}"


def accounts(agent: Agent) -> list[dict[str, Any]]:
    """The ServiceAccounts that the file does not name. They have no rights: an identity is all they are."""
    names = [
        account_of(agent, stage)
        for stage in agent.spec.services
        if not (stage.service_account_name or agent.spec.service_account_name)
    ]
    if any(is_woken(stage) for stage in agent.spec.services):
        names.append(waker_name(agent))
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {
                "name": name,
                "namespace": agent.metadata.namespace,
                "labels": {AGENT_LABEL: agent.metadata.name},
            },
            "automountServiceAccountToken": False,
        }
        for name in names
    ]


def callers_of(agent: Agent, stage: StageSpec) -> Callers:
    """Who may call a stage.

    An inner stage is called by the agent's orchestrate stage, and by the pods that post queues' messages to
    it or wake it, or its durable runs; the entry and public stages also by the ingress and by the file's
    `mesh.callers`.
    """
    namespace = agent.metadata.namespace
    found = [
        (namespace, account_of(agent, other))
        for other in agent.spec.services
        if other.kind is Kind.ORCHESTRATE and other is not stage
    ]
    if any(trigger.delivery == "dispatcher" for trigger in agent.spec.triggers):
        dispatcher = agent.spec.dispatcher.service_account_name or f"{agent.metadata.name}-triggers"
        found.append((namespace, dispatcher))
    if is_woken(stage):
        found.append((namespace, waker_name(agent)))
    if not agent.is_public(stage):
        return Callers(tuple(found), ())
    mesh = agent.spec.mesh
    for caller in mesh.callers:
        owner, _, name = caller.partition("/")
        found.append((owner, name))
    return Callers(tuple(dict.fromkeys(found)), tuple(agent.spec.network_policy.ingress_namespaces))


def shared_accounts(agent: Agent) -> dict[str, list[str]]:
    """Accounts that several stages have, and these stages: the mesh cannot tell these apart."""
    stages: dict[str, list[str]] = {}
    for stage in agent.spec.services:
        stages.setdefault(account_of(agent, stage), []).append(stage.name)
    return {account: names for account, names in stages.items() if len(names) > 1}
