"""Reading the protobuf that Go clients send for built-in kinds (pure).

Typed clients of client-go (`kubectl create configmap`, leader election, event recorders) send protobuf for
the kinds that are compiled into them and do not fall back to JSON. Their answers may be JSON. The field
numbers are those of Kubernetes' generated.proto files; fields that are not named here are skipped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.errors import ApiError, bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: its JSON name and how its value is read."""

    name: str
    type: str | _Message = "string"
    """`string`, `bytes` (base64 in JSON), `bool`, `int`, `time`, `micro` (with microseconds) or a message."""
    repeated: bool = False
    mapping: bool = False
    """Whether it is a map from strings to `type`."""


_Message: TypeAlias = Mapping[int, _Field]

_OWNER: _Message = {
    1: _Field("kind"),
    3: _Field("name"),
    4: _Field("uid"),
    5: _Field("apiVersion"),
    6: _Field("controller", "bool"),
    7: _Field("blockOwnerDeletion", "bool"),
}
_META: _Message = {
    1: _Field("name"),
    2: _Field("generateName"),
    3: _Field("namespace"),
    5: _Field("uid"),
    6: _Field("resourceVersion"),
    11: _Field("labels", mapping=True),
    12: _Field("annotations", mapping=True),
    13: _Field("ownerReferences", _OWNER, repeated=True),
    14: _Field("finalizers", repeated=True),
}
_REFERENCE: _Message = {
    1: _Field("kind"),
    2: _Field("namespace"),
    3: _Field("name"),
    4: _Field("uid"),
    5: _Field("apiVersion"),
    6: _Field("resourceVersion"),
    7: _Field("fieldPath"),
}
_LEASE_SPEC: _Message = {
    1: _Field("holderIdentity"),
    2: _Field("leaseDurationSeconds", "int"),
    3: _Field("acquireTime", "micro"),
    4: _Field("renewTime", "micro"),
    5: _Field("leaseTransitions", "int"),
    6: _Field("strategy"),
    7: _Field("preferredHolder"),
}
_KINDS: Mapping[tuple[str, str], _Message] = {
    ("v1", "Namespace"): {1: _Field("metadata", _META)},
    ("v1", "ConfigMap"): {
        1: _Field("metadata", _META),
        2: _Field("data", mapping=True),
        3: _Field("binaryData", "bytes", mapping=True),
        4: _Field("immutable", "bool"),
    },
    ("v1", "Secret"): {
        1: _Field("metadata", _META),
        2: _Field("data", "bytes", mapping=True),
        3: _Field("type"),
        4: _Field("stringData", mapping=True),
        5: _Field("immutable", "bool"),
    },
    ("v1", "Event"): {
        1: _Field("metadata", _META),
        2: _Field("involvedObject", _REFERENCE),
        3: _Field("reason"),
        4: _Field("message"),
        5: _Field("source", {1: _Field("component"), 2: _Field("host")}),
        6: _Field("firstTimestamp", "time"),
        7: _Field("lastTimestamp", "time"),
        8: _Field("count", "int"),
        9: _Field("type"),
        10: _Field("eventTime", "micro"),
        11: _Field("series", {1: _Field("count", "int"), 2: _Field("lastObservedTime", "micro")}),
        12: _Field("action"),
        13: _Field("related", _REFERENCE),
        14: _Field("reportingComponent"),
        15: _Field("reportingInstance"),
    },
    ("coordination.k8s.io/v1", "Lease"): {1: _Field("metadata", _META), 2: _Field("spec", _LEASE_SPEC)},
}
_DELETE_OPTIONS: _Message = {
    1: _Field("gracePeriodSeconds", "int"),
    2: _Field("preconditions", {1: _Field("uid"), 2: _Field("resourceVersion")}),
    3: _Field("orphanDependents", "bool"),
    4: _Field("propagationPolicy"),
    5: _Field("dryRun", repeated=True),
}


def read(data: bytes) -> Object:
    """The object in an envelope (`runtime.Unknown`), as JSON.

    Raises:
        ApiError: 400, it can't be read; 415, it is of a kind that must come as JSON.
    """
    try:
        return _read(data)
    except (IndexError, OverflowError, UnicodeDecodeError) as problem:
        raise bad_request("the protobuf body is damaged") from problem


def _read(data: bytes) -> Object:
    if not data.startswith(_MAGIC):
        raise bad_request("the protobuf body does not begin with its prefix")
    envelope = dict(_raw_fields(data[len(_MAGIC) :]))
    type_meta = dict(_raw_fields(_bytes(envelope.get(1))))
    api_version, kind = _bytes(type_meta.get(1)).decode(), _bytes(type_meta.get(2)).decode()
    # Every group has a DeleteOptions of its own version, all alike.
    message = _DELETE_OPTIONS if kind == "DeleteOptions" else _KINDS.get((api_version, kind))
    if message is None:
        raise ApiError(
            415, "UnsupportedMediaType", f"protobuf is not read for {api_version} {kind}; send JSON or YAML"
        )
    return {"apiVersion": api_version, "kind": kind, **_message(_bytes(envelope.get(2)), message)}


def _message(data: bytes, message: _Message) -> Object:
    found: Object = {}
    for number, raw in _raw_fields(data):
        field = message.get(number)
        if field is None:
            continue
        if field.mapping:
            entry = dict(_raw_fields(_bytes(raw)))
            key = _bytes(entry.get(1)).decode()
            found.setdefault(field.name, {})[key] = _value(entry.get(2, b""), field.type)
        elif field.repeated:
            found.setdefault(field.name, []).append(_value(raw, field.type))
        else:
            value = _value(raw, field.type)
            if value not in ("", None):  # Go writes the zero value of fields that were not set
                found[field.name] = value
    return found


def _value(raw: int | bytes, kind: str | _Message) -> Any:
    if not isinstance(kind, str):
        return _message(_bytes(raw), kind)
    match kind:
        case "string":
            return _bytes(raw).decode()
        case "bytes":
            return base64.b64encode(_bytes(raw)).decode()
        case "bool":
            return bool(raw)
        case "int":
            return _signed(raw)
        case _:
            return _time(_bytes(raw), micro=kind == "micro")


def _time(data: bytes, *, micro: bool) -> str | None:
    """A timestamp of seconds and nanoseconds; empty is Go's zero time, which is null in JSON."""
    if not data:
        return None
    parts = dict(_raw_fields(data))
    instant = _EPOCH + timedelta(
        seconds=_signed(parts.get(1, 0)), microseconds=_signed(parts.get(2, 0)) // 1000
    )
    return objects.micro_timestamp(instant) if micro else objects.timestamp(instant)


def _signed(raw: int | bytes) -> int:
    number = raw if isinstance(raw, int) else 0
    return number - 2**64 if number >= 2**63 else number


def _bytes(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def _raw_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message.

    Raises:
        IndexError: the message ends too early, or has a wire type that Kubernetes does not use.
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        value: int | bytes
        if wire_type == 0:
            value, position = _varint(data, position)
        elif wire_type == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise IndexError(position)
            value, position = data[position : position + length], position + length
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
            value, position = data[position : position + length], position + length
        else:
            raise IndexError(position)
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError(position)
