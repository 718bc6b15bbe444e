"""The kinds of objects that agents compile to (pure)."""

from typing import Any

from knative.client.resources import (
    DEPLOYMENT,
    DESTINATION_RULE,
    ISTIO_AUTHORIZATION,
    LINKERD_AUTHORIZATION,
    LINKERD_SERVER,
    MESH_TLS_AUTHENTICATION,
    NETWORK_POLICY,
    PEER_AUTHENTICATION,
    SERVICE,
    SERVICE_ACCOUNT,
    TRIGGER,
    WARM_POOL,
    Resource,
)

LOCAL = (SERVICE, WARM_POOL, TRIGGER)
"""What one machine has a use for: its pods are processes on loopback."""
_OF_A_CLUSTER = (
    NETWORK_POLICY,
    SERVICE_ACCOUNT,
    PEER_AUTHENTICATION,
    ISTIO_AUTHORIZATION,
    DESTINATION_RULE,
    LINKERD_SERVER,
    LINKERD_AUTHORIZATION,
    MESH_TLS_AUTHENTICATION,
    DEPLOYMENT,
)
_RESOURCES = {(resource.api_version, resource.kind): resource for resource in (*LOCAL, *_OF_A_CLUSTER)}


def resource_of(obj: dict[str, Any]) -> Resource:
    """The resource that an object of an agent belongs to."""
    return _RESOURCES[obj["apiVersion"], obj["kind"]]
