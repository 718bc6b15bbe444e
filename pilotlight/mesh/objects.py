"""The objects that an agent's mesh adds to it, and what of it cannot be told apart (pure)."""

from typing import Any

from pilotlight.agent import Agent
from pilotlight.mesh.identities import accounts, shared_accounts
from pilotlight.mesh.istio import istio_objects
from pilotlight.mesh.linkerd import linkerd_objects


def mesh_objects(agent: Agent) -> list[dict[str, Any]]:
    """ServiceAccounts and the mesh's own objects; none without a mesh."""
    match agent.spec.mesh.type:
        case "none":
            return []
        case "linkerd":
            return [*accounts(agent), *linkerd_objects(agent)]
        case _:
            return [*accounts(agent), *istio_objects(agent)]


def mesh_notes(agent: Agent) -> list[str]:
    """What the mesh does not do for this agent, in a line each."""
    mesh = agent.spec.mesh.type
    if mesh == "none":
        return []
    notes = [
        f"spec.mesh: stages {', '.join(stages)} share the account {account}, so the mesh cannot tell them "
        "apart; leave serviceAccountName out, or give each its own"
        for account, stages in shared_accounts(agent).items()
    ]
    if mesh != "istio" and agent.spec.auth is None:
        notes.append(
            f"spec.mesh: with {mesh} requests between stages pass Knative's gateway, which hides who calls: "
            "write spec.auth, so that inner stages ask for the stage token"
        )
    return notes
