"""Keys of the labels and annotations that several packages read or write.

Those of `autoscaling.knative.dev` stand in `knative.autoscaling.annotations`, beside what they mean.
"""

from __future__ import annotations

SERVING = "serving.knative.dev"
PILOTLIGHT = "pilotlight.dev"

SERVICE_LABEL = f"{SERVING}/service"
SERVICE_UID_LABEL = f"{SERVING}/serviceUID"
CONFIGURATION_LABEL = f"{SERVING}/configuration"
CONFIGURATION_UID_LABEL = f"{SERVING}/configurationUID"
CONFIGURATION_GENERATION_LABEL = f"{SERVING}/configurationGeneration"
REVISION_LABEL = f"{SERVING}/revision"
REVISION_UID_LABEL = f"{SERVING}/revisionUID"
ROUTING_STATE_LABEL = f"{SERVING}/routingState"
"""On a Revision: `pending` before a Route has named it, `active` while one does, `reserve` afterwards."""
ROUTING_STATE_MODIFIED_ANNOTATION = f"{SERVING}/routingStateModified"
ROUTES_ANNOTATION = f"{SERVING}/routes"
"""On a Revision: the Routes that send requests to it, joined by commas."""
CREATOR_ANNOTATION = f"{SERVING}/creator"
LAST_MODIFIER_ANNOTATION = f"{SERVING}/lastModifier"
LAST_PINNED_ANNOTATION = f"{SERVING}/lastPinned"
PROGRESS_DEADLINE_ANNOTATION = f"{SERVING}/progress-deadline"
"""On a Revision: how long its first replicas may take to become ready, a Go duration in whole seconds."""
ROLLOUT_DURATION_ANNOTATIONS = (f"{SERVING}/rollout-duration", f"{SERVING}/rolloutDuration")
"""On a Service or Route: how long a new Revision takes to get all requests, a Go duration."""
NO_GC_ANNOTATION = f"{SERVING}/no-gc"
VISIBILITY_LABEL = "networking.knative.dev/visibility"
"""On a Service or Route: `cluster-local` gives it no URL outside of the cluster."""
CLUSTER_LOCAL = "cluster-local"

AGENT_LABEL = f"{PILOTLIGHT}/agent"
"""On a Service: the agent that it is a stage of."""
STAGE_LABEL = f"{PILOTLIGHT}/stage"
"""On a Service: the kind of its stage."""
WARMS_LABEL = f"{PILOTLIGHT}/warms"
"""On a Job and its pod: the Service whose weights cache it fills."""
ALLOWED_ORIGINS_ANNOTATION = f"{PILOTLIGHT}/allowed-origins"
"""On a Revision: origins of web pages that may call it, separated by commas; an activator answers their
preflights. Empty: none may. A Revision without it answers preflights itself."""
ROTATED_AT_ANNOTATION = f"{PILOTLIGHT}/rotated-at"
"""On a Secret: when its token was last replaced."""
PORT_ANNOTATION = f"{PILOTLIGHT}/port"
"""On a Pod of the local platform: the port that its serving process listens on."""
OBSERVED_PORT_ANNOTATION = f"{PILOTLIGHT}/observed-port"
"""On a Revision and its pods: the port at which a pod is asked for metrics and warmth by its address, where
queue-proxy's does not take such requests."""
TLS_ANNOTATION = f"{PILOTLIGHT}/tls"
"""On a Pod of the local platform: its process speaks TLS with clients that the platform has certified."""
SCHEDULED_AT_ANNOTATION = f"{PILOTLIGHT}/scheduled-at"
STARTED_AT_ANNOTATION = f"{PILOTLIGHT}/started-at"
READY_AT_ANNOTATION = f"{PILOTLIGHT}/ready-at"
"""On a Pod: instants with microseconds, where Kubernetes' own timestamps have whole seconds."""
ROLLOUT_STATE_ANNOTATION = f"{PILOTLIGHT}/rollout"
"""On a Route of the local platform: the gradual rollouts in progress, as JSON."""
GPU_SLOTS_ANNOTATION = f"{PILOTLIGHT}/gpu-slots"
"""On a Pod: the numbers of the GPU slots that it holds, joined by commas."""

MODULES_ANNOTATION = f"{PILOTLIGHT}/modules"
"""On a Revision of one machine: digest of the Python files beside the agent file."""
