"""ObjectMeta, conditions and other shapes that every kind shares."""

from __future__ import annotations

from knative.local.apiserver.schemas.structural import (
    BOOLEAN,
    FREE,
    INT64,
    STRING,
    atomic_list,
    described,
    map_list,
    mapping,
    set_list,
    struct,
)

OWNER_REFERENCE = struct(
    {
        "apiVersion": STRING,
        "kind": STRING,
        "name": STRING,
        "uid": STRING,
        "controller": BOOLEAN,
        "blockOwnerDeletion": BOOLEAN,
    },
    required=("apiVersion", "kind", "name", "uid"),
    about="An object that this one depends on; it goes when its owners have gone.",
)

OBJECT_META = struct(
    {
        "name": described(STRING, "Unique within the namespace; cannot change."),
        "generateName": described(STRING, "Prefix of a name that the server completes."),
        "namespace": described(STRING, "Where the object lives; cannot change."),
        "labels": described(mapping(STRING), "Words to select objects by."),
        "annotations": described(mapping(STRING), "Words for tools and controllers."),
        "finalizers": set_list(STRING),
        "ownerReferences": map_list(OWNER_REFERENCE, "uid"),
        "uid": described(STRING, "This incarnation's identity; read-only."),
        "resourceVersion": described(STRING, "This version's identity; read-only."),
        "generation": described(INT64, "Counts changes of the specification; read-only."),
        "creationTimestamp": described({**STRING, "format": "date-time", "nullable": True}, "Read-only."),
        "deletionTimestamp": described({**STRING, "format": "date-time"}, "When deletion began; read-only."),
        "deletionGracePeriodSeconds": INT64,
        "selfLink": STRING,
        "managedFields": described(atomic_list(FREE), "Which manager owns which field; kept by the server."),
    },
    about="Standard object's metadata.",
)

CONDITION = struct(
    {
        "type": STRING,
        "status": described(STRING, "True, False or Unknown."),
        "severity": described(STRING, "Empty for an error; Warning or Info do not touch Ready."),
        "lastTransitionTime": STRING,
        "reason": described(STRING, "One word for machines."),
        "message": described(STRING, "A sentence for people."),
    },
    required=("type", "status"),
)

CONDITIONS = described(
    {"type": "array", "items": CONDITION}, "The latest observations of the object's state."
)
