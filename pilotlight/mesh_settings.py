"""What an agent file says about the service mesh of its cluster (pure)."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from pilotlight.agent_values import AgentModel

MeshType = Literal["none", "istio", "istio-ambient", "linkerd"]
MESH_TYPES: tuple[MeshType, ...] = get_args(MeshType)

Account = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=317)
]
"""`NAMESPACE/SERVICEACCOUNT`."""


class MeshSettings(AgentModel):
    """The mesh, and which workloads outside of the agent may call it."""

    type: MeshType = "none"
    callers: list[Account] = Field(default_factory=list, max_length=100)
    """Accounts, as `NAMESPACE/SERVICEACCOUNT`, whose pods may call the entry and public stages from within
    the mesh. Requests from outside come through the ingress's namespaces (`networkPolicy`)."""


def _written_short(value: Any) -> Any:
    """`mesh: istio` needs nothing beside it."""
    return {"type": value} if isinstance(value, str) else value


Mesh = Annotated[MeshSettings, BeforeValidator(_written_short)]
