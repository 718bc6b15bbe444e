"""Schemas of Service, Configuration, Revision, Route and PodAutoscaler."""

from __future__ import annotations

from knative.local.apiserver.schemas.object_meta import CONDITIONS, OBJECT_META
from knative.local.apiserver.schemas.revision_spec import REVISION_SPEC
from knative.local.apiserver.schemas.structural import (
    BOOLEAN,
    INT32,
    INT64,
    STRING,
    Schema,
    described,
    mapping,
    struct,
)

_TEMPLATE_META = struct(
    {
        "annotations": mapping(STRING),
        "labels": mapping(STRING),
        "name": described(STRING, "The Revision's name, which must start with the Service's and a dash."),
        "namespace": STRING,
        "finalizers": {"type": "array", "items": STRING},
        # WriteResult by Go clients that print a zero value.
        "creationTimestamp": {**STRING, "nullable": True},
    }
)
_TEMPLATE = struct(
    {"metadata": _TEMPLATE_META, "spec": REVISION_SPEC}, about="What the next Revision looks like."
)
_TRAFFIC = described(
    {
        "type": "array",
        "items": struct(
            {
                "configurationName": STRING,
                "latestRevision": described(BOOLEAN, "Whether it follows the newest ready Revision."),
                "percent": described(INT64, "Share of the requests."),
                "revisionName": STRING,
                "tag": described(STRING, "Gives this target a URL of its own."),
                "url": STRING,
            }
        ),
    },
    "How requests are split between Revisions.",
)
_ADDRESS = struct({"url": STRING, "name": STRING, "audience": STRING, "CACerts": STRING})
_COMMON = {"annotations": mapping(STRING), "conditions": CONDITIONS, "observedGeneration": INT64}
_LATEST = {
    "latestCreatedRevisionName": described(STRING, "The newest Revision."),
    "latestReadyRevisionName": described(STRING, "The newest Revision that is ready."),
}


def _kind(spec: Schema, status: Schema, about: str) -> Schema:
    return struct(
        {
            "apiVersion": STRING,
            "kind": STRING,
            "metadata": OBJECT_META,
            "spec": spec,
            "status": status,
        },
        about=about,
    )


SERVICE_SCHEMA = _kind(
    struct({"template": _TEMPLATE, "traffic": _TRAFFIC}),
    struct({**_COMMON, **_LATEST, "address": _ADDRESS, "traffic": _TRAFFIC, "url": STRING}),
    "A function with its URL; owns a Configuration and a Route.",
)
CONFIGURATION_SCHEMA = _kind(
    struct({"template": _TEMPLATE}),
    struct({**_COMMON, **_LATEST}),
    "The desired state of a function; each change makes a Revision.",
)
REVISION_SCHEMA = _kind(
    REVISION_SPEC,
    struct(
        {
            **_COMMON,
            "actualReplicas": INT32,
            "desiredReplicas": INT32,
            "containerStatuses": {
                "type": "array",
                "items": struct({"name": STRING, "imageDigest": STRING}),
            },
            "logUrl": STRING,
        }
    ),
    "An immutable version of a function; changes of its autoscaling annotations take effect in place.",
)
ROUTE_SCHEMA = _kind(
    struct({"traffic": _TRAFFIC}),
    struct({**_COMMON, "address": _ADDRESS, "traffic": _TRAFFIC, "url": STRING}),
    "The URL of a function, and how its requests are split between Revisions.",
)
POD_AUTOSCALER_SCHEMA = _kind(
    struct(
        {
            "containerConcurrency": INT64,
            "protocolType": STRING,
            "reachability": STRING,
            "scaleTargetRef": {
                **struct({"apiVersion": STRING, "kind": STRING, "name": STRING}),
                "x-kubernetes-map-type": "atomic",
            },
        },
        required=("protocolType", "scaleTargetRef"),
    ),
    struct(
        {
            **_COMMON,
            "actualScale": INT32,
            "desiredScale": INT32,
            "metricsServiceName": STRING,
            "serviceName": STRING,
        },
        required=("metricsServiceName", "serviceName"),
    ),
    "How a Revision is scaled; its controller overwrites changes.",
)
