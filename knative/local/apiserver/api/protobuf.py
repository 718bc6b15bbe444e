"""Reading the protobuf that kubectl's typed clients send for a few built-in kinds.

`kubectl create namespace`, `create configmap` and `create secret` send protobuf and don't fall back to JSON.
Only what they send is read: the envelope and the fields of these three kinds (numbers from Kubernetes'
generated.proto files). Answers are JSON, which every client takes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from knative.client.resources import Object
from knative.local.apiserver.errors import ApiError, bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_META: Mapping[int, str] = {1: "name", 2: "generateName", 3: "namespace"}


def read(data: bytes) -> Object:
    """The object in an envelope, as JSON.

    Raises:
        ApiError: 400, it can't be read; 415, it is of a kind that must come as JSON.
    """
    try:
        return _read(data)
    except (IndexError, UnicodeDecodeError) as problem:
        raise bad_request("the protobuf body is damaged") from problem


def _read(data: bytes) -> Object:
    if not data.startswith(_MAGIC):
        raise bad_request("the protobuf body does not begin with its prefix")
    envelope = dict(_fields(data[len(_MAGIC) :]))
    type_meta = dict(_fields(_bytes(envelope.get(1))))
    api_version, kind = _text(type_meta.get(1)), _text(type_meta.get(2))
    readers = {"Namespace": _namespace, "ConfigMap": _config_map, "Secret": _secret}
    reader = readers.get(kind)
    if api_version != "v1" or reader is None:
        raise ApiError(
            415, "UnsupportedMediaType", f"protobuf is not read for {api_version} {kind}; send JSON or YAML"
        )
    body = _bytes(envelope.get(2))
    meta = next((_meta(_bytes(value)) for number, value in _fields(body) if number == 1), {})
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **reader(body)}


def _meta(data: bytes) -> Object:
    meta: Object = {}
    for number, value in _fields(data):
        if number in _META:
            if text := _text(value):
                meta[_META[number]] = text
        elif number in (11, 12):
            key, item = _entry(_bytes(value))
            meta.setdefault("labels" if number == 11 else "annotations", {})[key] = item.decode()
    return meta


def _namespace(data: bytes) -> Object:
    del data  # its spec is the server's own
    return {}


def _config_map(data: bytes) -> Object:
    found: Object = {}
    for number, value in _fields(data):
        if number in (2, 3):
            key, item = _entry(_bytes(value))
            if number == 2:
                found.setdefault("data", {})[key] = item.decode()
            else:
                found.setdefault("binaryData", {})[key] = base64.b64encode(item).decode()
        elif number == 4:
            found["immutable"] = bool(value)
    return found


def _secret(data: bytes) -> Object:
    found: Object = {}
    for number, value in _fields(data):
        if number in (2, 4):
            key, item = _entry(_bytes(value))
            if number == 2:
                found.setdefault("data", {})[key] = base64.b64encode(item).decode()
            else:
                found.setdefault("stringData", {})[key] = item.decode()
        elif number == 3 and value:
            found["type"] = _text(value)
        elif number == 5:
            found["immutable"] = bool(value)
    return found


def _entry(data: bytes) -> tuple[str, bytes]:
    """One entry of a map."""
    parts = dict(_fields(data))
    return _text(parts.get(1)), _bytes(parts.get(2))


def _text(value: int | bytes | None) -> str:
    return _bytes(value).decode()


def _bytes(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        value: Any
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
