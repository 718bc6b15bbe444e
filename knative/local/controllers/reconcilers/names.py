"""Knative's labels and annotations, and the platform's own."""

from __future__ import annotations

from collections.abc import Mapping

SERVING = "serving.knative.dev"
AUTOSCALING = "autoscaling.knative.dev"

SERVICE_LABEL = f"{SERVING}/service"
SERVICE_UID = f"{SERVING}/serviceUID"
CONFIGURATION_LABEL = f"{SERVING}/configuration"
CONFIGURATION_UID = f"{SERVING}/configurationUID"
CONFIGURATION_GENERATION = f"{SERVING}/configurationGeneration"
REVISION_LABEL = f"{SERVING}/revision"
REVISION_UID = f"{SERVING}/revisionUID"
ROUTING_STATE = f"{SERVING}/routingState"
ROUTING_STATE_MODIFIED = f"{SERVING}/routingStateModified"
ROUTES = f"{SERVING}/routes"
CREATOR = f"{SERVING}/creator"
LAST_MODIFIER = f"{SERVING}/lastModifier"
PROGRESS_DEADLINE = f"{SERVING}/progress-deadline"
NO_GC = f"{SERVING}/no-gc"
VISIBILITY = "networking.knative.dev/visibility"
"""On a Service or Route: `cluster-local` gives it no URL outside."""

USER = "kubernetes-admin"
"""Who writes through the API: whoever has the one token."""

PORT = "pilotlight.dev/port"
"""On a Pod: the port that its process listens on."""
SCHEDULED_AT = "pilotlight.dev/scheduled-at"
STARTED_AT = "pilotlight.dev/started-at"
READY_AT = "pilotlight.dev/ready-at"
"""On a Pod: instants in microseconds, where Kubernetes' own timestamps have whole seconds."""
GPU_SLOTS = "pilotlight.dev/gpu-slots"
"""On a Pod: the numbers of the GPU slots that it holds, joined by commas."""


_KEPT_BACK = frozenset({ROUTING_STATE_MODIFIED, ROUTES, NO_GC, f"{SERVING}/lastPinned"})


def for_autoscaler(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of a Revision that its PodAutoscaler has too."""
    return {key: value for key, value in annotations.items() if key not in _KEPT_BACK}


def for_pods(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations of a Revision that its pods have too: none that steers the autoscaler."""
    return {
        key: value for key, value in for_autoscaler(annotations).items() if not key.startswith(AUTOSCALING)
    }
