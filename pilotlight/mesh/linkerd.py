"""Linkerd's objects for an agent: who may open a connection to which port of its pods (pure).

Requests pass Knative's gateway or its activator, so pods see their identities. Whether it was the agent's
own stage that called is told by the stage token.
"""

from typing import Any

from knative.labels import AGENT_LABEL
from pilotlight.agent import Agent
from pilotlight.mesh.identities import SERVING_NAMESPACE
from pilotlight.mesh.pods import CONTAINER_PORT

_GROUP = "policy.linkerd.io"

Object = dict[str, Any]


def linkerd_objects(agent: Agent) -> list[Object]:
    """A Server for each port of the pods, and who is let in there."""
    settings = agent.spec.network_policy
    observers = sorted(settings.observer_namespaces)
    serving = sorted({SERVING_NAMESPACE, *settings.ingress_namespaces, *observers})
    scraping = sorted({SERVING_NAMESPACE, *observers})
    objects = [_namespaces(agent, "requests", serving), _namespaces(agent, "metrics", scraping)]
    for port, protocol, clients in (
        (8012, "HTTP/1", "requests"),
        (8013, "HTTP/2", "requests"),
        (9090, "HTTP/1", "metrics"),
        (9091, "HTTP/1", "metrics"),
        (CONTAINER_PORT, "HTTP/1", "metrics"),
    ):
        objects += _server(agent, port, protocol, clients)
    return objects


def _meta(agent: Agent, name: str) -> Object:
    return {
        "name": f"{agent.metadata.name}-{name}",
        "namespace": agent.metadata.namespace,
        "labels": {AGENT_LABEL: agent.metadata.name},
    }


def _namespaces(agent: Agent, name: str, namespaces: list[str]) -> Object:
    return {
        "apiVersion": f"{_GROUP}/v1alpha1",
        "kind": "MeshTLSAuthentication",
        "metadata": _meta(agent, name),
        "spec": {"identityRefs": [{"kind": "Namespace", "name": namespace} for namespace in namespaces]},
    }


def _server(agent: Agent, port: int, protocol: str, clients: str) -> list[Object]:
    server = {
        "apiVersion": f"{_GROUP}/v1beta3",
        "kind": "Server",
        "metadata": _meta(agent, str(port)),
        "spec": {
            "podSelector": {"matchLabels": {AGENT_LABEL: agent.metadata.name}},
            "port": port,
            "proxyProtocol": protocol,
            "accessPolicy": "deny",
        },
    }
    policy = {
        "apiVersion": f"{_GROUP}/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": _meta(agent, str(port)),
        "spec": {
            "targetRef": {"group": _GROUP, "kind": "Server", "name": server["metadata"]["name"]},  # type: ignore[index]
            "requiredAuthenticationRefs": [
                {
                    "group": _GROUP,
                    "kind": "MeshTLSAuthentication",
                    "name": f"{agent.metadata.name}-{clients}",
                }
            ],
        },
    }
    return [server, policy]
