"""The HorizontalPodAutoscaler, as far as the platform makes it for Revisions of class hpa."""

from __future__ import annotations

from knative.local.apiserver.schemas.meta import OBJECT_META
from knative.local.apiserver.schemas.structural import FREE, INT32, STRING, atomic, described, keyed, struct

_TARGET_REF = {
    **struct({"apiVersion": STRING, "kind": STRING, "name": STRING}, required=("kind", "name")),
    "x-kubernetes-map-type": "atomic",
}
_CONDITION = struct(
    {"type": STRING, "status": STRING, "reason": STRING, "message": STRING, "lastTransitionTime": STRING},
    required=("type", "status"),
)

HORIZONTAL_POD_AUTOSCALER_SCHEMA = struct(
    {
        "apiVersion": STRING,
        "kind": STRING,
        "metadata": OBJECT_META,
        "spec": struct(
            {
                "scaleTargetRef": _TARGET_REF,
                "minReplicas": INT32,
                "maxReplicas": INT32,
                "metrics": described(atomic(FREE), "What replicas should use on average."),
                "behavior": described(FREE, "How fast the number may change."),
            },
            required=("scaleTargetRef", "maxReplicas"),
        ),
        "status": struct(
            {
                "conditions": keyed(_CONDITION, "type"),
                "currentMetrics": atomic(FREE),
                "currentReplicas": INT32,
                "desiredReplicas": INT32,
                "lastScaleTime": STRING,
                "observedGeneration": {"type": "integer", "format": "int64"},
            },
            required=("desiredReplicas",),
        ),
    },
    about="How a Revision of class hpa is scaled. Follows its PodAutoscaler; do not change it by hand.",
)
