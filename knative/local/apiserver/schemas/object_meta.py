"""Schemas of metadata and conditions, which all kinds share."""

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
    about="An object that owns this one, which is deleted when all its owners are gone.",
)

OBJECT_META = struct(
    {
        "name": described(STRING, "Unique within the namespace; cannot change."),
        "generateName": described(STRING, "Prefix of a name that the server completes."),
        "namespace": described(STRING, "Where the object lives; cannot change."),
        "labels": described(mapping(STRING), "Keys and values to select objects by."),
        "annotations": described(mapping(STRING), "Keys and values for tools and controllers."),
        "finalizers": set_list(STRING),
        "ownerReferences": map_list(OWNER_REFERENCE, "uid"),
        "uid": described(STRING, "Identity of this object, never reused; read-only."),
        "resourceVersion": described(STRING, "Identity of this version; read-only."),
        "generation": described(INT64, "Counts changes of the spec; read-only."),
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
        "reason": described(STRING, "A CamelCase word for programs."),
        "message": described(STRING, "A text for people."),
    },
    required=("type", "status"),
)

CONDITIONS = described(
    {"type": "array", "items": CONDITION}, "The latest observations of the object's state."
)
