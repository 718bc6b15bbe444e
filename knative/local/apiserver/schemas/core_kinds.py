"""Schemas of Namespace, Pod, Event, ConfigMap, Secret and Lease, as far as one machine needs them."""

from __future__ import annotations

from knative.local.apiserver.schemas.object_meta import OBJECT_META
from knative.local.apiserver.schemas.structural import (
    BOOLEAN,
    FREE,
    INT32,
    STRING,
    Schema,
    described,
    mapping,
    set_list,
    struct,
)


def _kind(fields: dict[str, Schema], about: str) -> Schema:
    return struct({"apiVersion": STRING, "kind": STRING, "metadata": OBJECT_META, **fields}, about=about)


NAMESPACE_SCHEMA = _kind(
    {"spec": struct({"finalizers": set_list(STRING)}), "status": FREE},
    "A scope for names.",
)
POD_SCHEMA = _kind(
    {
        "spec": described(FREE, "What the replica runs."),
        "status": described(FREE, "Phase, conditions and the container's state."),
    },
    "One replica; on one machine, a process.",
)
CONFIG_MAP_SCHEMA = _kind(
    {"data": mapping(STRING), "binaryData": mapping(STRING), "immutable": BOOLEAN},
    "Settings for containers.",
)
SECRET_SCHEMA = _kind(
    {
        "data": described(mapping(STRING), "Values in base64."),
        "stringData": described(mapping(STRING), "Values as plain text; written into data in base64."),
        "type": STRING,
        "immutable": BOOLEAN,
    },
    "Confidential settings for containers.",
)
_OBJECT_REFERENCE = struct(
    {
        "apiVersion": STRING,
        "kind": STRING,
        "name": STRING,
        "namespace": STRING,
        "uid": STRING,
        "resourceVersion": STRING,
        "fieldPath": STRING,
    }
)
EVENT_SCHEMA = _kind(
    {
        "involvedObject": _OBJECT_REFERENCE,
        "related": _OBJECT_REFERENCE,
        "reason": STRING,
        "message": STRING,
        "type": described(STRING, "Normal or Warning."),
        "action": STRING,
        "count": INT32,
        "source": struct({"component": STRING, "host": STRING}),
        "series": FREE,
        "firstTimestamp": {**STRING, "nullable": True},
        "lastTimestamp": {**STRING, "nullable": True},
        "eventTime": {**STRING, "nullable": True},
        "reportingComponent": STRING,
        "reportingInstance": STRING,
    },
    "Something that happened to an object.",
)
LEASE_SCHEMA = _kind(
    {
        "spec": struct(
            {
                "holderIdentity": STRING,
                "leaseDurationSeconds": INT32,
                "leaseTransitions": INT32,
                "acquireTime": STRING,
                "renewTime": STRING,
                "preferredHolder": STRING,
                "strategy": STRING,
            }
        )
    },
    "A lock with an expiry, such as that of a leader.",
)
