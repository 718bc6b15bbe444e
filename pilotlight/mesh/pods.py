"""Labels and annotations of a stage's pods in a mesh (pure).

Knative copies those of a Revision's template to its pods, where the meshes' injectors read them.
"""

from knative.labels import OBSERVED_PORT_ANNOTATION
from pilotlight.agent import Agent
from pilotlight.mesh_settings import MeshType
from pilotlight.stage_spec import Kind, StageSpec

CONTAINER_PORT = 8080
"""Of the stage itself, behind queue-proxy."""
_HTTPS = "443"
"""Weights come over it, encrypted already: passing a proxy would cost a copy of every byte, and tell the
mesh nothing."""


def pod_labels(agent: Agent) -> dict[str, str]:
    """Labels by which the mesh takes a pod in."""
    return _LABELS.get(agent.spec.mesh.type, {})


def mesh_annotations(agent: Agent) -> dict[str, str]:
    """Annotations for any pod of the agent in the mesh."""
    return dict(_ANNOTATIONS.get(agent.spec.mesh.type, {}))


def pod_annotations(agent: Agent, stage: StageSpec) -> dict[str, str]:
    """Annotations for the pods of a stage."""
    mesh = agent.spec.mesh.type
    found = mesh_annotations(agent)
    if agent.spec.reads_model(stage) and mesh in _BYPASS:
        found[_BYPASS[mesh]] = _HTTPS
    if mesh == "istio" and stage.kind is not Kind.CONTAINER:
        # A request to a pod's address leaves a sidecar unencrypted, so the warm-pool controller asks at the
        # one port that takes such requests.
        found[OBSERVED_PORT_ANNOTATION] = str(CONTAINER_PORT)
    return found


OUTSIDE_LABELS = {"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none"}
OUTSIDE_ANNOTATIONS = {"linkerd.io/inject": "disabled"}
"""Of pods that talk to the object store or the Kubernetes API alone, over TLS: a sidecar only delays them,
and where it is no native one keep a Job from ending."""

_LABELS: dict[MeshType, dict[str, str]] = {
    "istio": {"sidecar.istio.io/inject": "true"},
    "istio-ambient": {"istio.io/dataplane-mode": "ambient"},
}
_ANNOTATIONS: dict[MeshType, dict[str, str]] = {
    # A native sidecar is up before the stage starts and ends after it: calls at the start and while a replica
    # drains find the network there.
    "istio": {"sidecar.istio.io/nativeSidecar": "true"},
    "linkerd": {
        "linkerd.io/inject": "enabled",
        "config.linkerd.io/proxy-enable-native-sidecar": "true",
        # What no Server names is closed.
        "config.linkerd.io/default-inbound-policy": "deny",
    },
}
_BYPASS: dict[MeshType, str] = {
    "istio": "traffic.sidecar.istio.io/excludeOutboundPorts",
    "linkerd": "config.linkerd.io/skip-outbound-ports",
}
