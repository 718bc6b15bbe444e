"""Reading the protobuf of Go clients; the messages here are written by the encoder at the top."""

import base64
from typing import Any

import pytest

from knative.local.apiserver.api import protobuf
from knative.local.apiserver.errors import ApiError


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, Any]) -> bytes:
    """A message of numbers with integers, text, bytes or (as tuples) messages."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
            continue
        data = (
            value.encode()
            if isinstance(value, str)
            else message(*value)
            if isinstance(value, tuple)
            else value
        )
        out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def envelope(api_version: str, kind: str, body: bytes) -> bytes:
    return b"k8s\x00" + message((1, ((1, api_version), (2, kind))), (2, body), (3, ""), (4, ""))


META = (
    (1, "a"),
    (3, "default"),
    (6, "7"),
    (7, 0),
    (8, ()),
    (11, ((1, "x"), (2, "y"))),
    (14, "example.com/hold"),
)
OWNER = (1, "Revision"), (3, "r"), (4, "u"), (5, "serving.knative.dev/v1"), (6, 1), (7, 0)
META_JSON = {
    "name": "a",
    "namespace": "default",
    "resourceVersion": "7",
    "labels": {"x": "y"},
    "finalizers": ["example.com/hold"],
}
SECONDS = 1_767_225_600  # 2026-01-01


@pytest.mark.parametrize(
    ("api_version", "kind", "fields", "read"),
    [
        ("v1", "Namespace", ((1, META), (2, ((1, "kubernetes"),))), {"metadata": META_JSON}),
        (
            "v1",
            "ConfigMap",
            ((1, META), (2, ((1, "k"), (2, "v"))), (3, ((1, "b"), (2, b"\xff"))), (4, 1)),
            {"metadata": META_JSON, "data": {"k": "v"}, "binaryData": {"b": "/w=="}, "immutable": True},
        ),
        (
            "v1",
            "Secret",
            ((1, META), (2, ((1, "k"), (2, "v"))), (3, "Opaque"), (4, ((1, "s"), (2, "t")))),
            {
                "metadata": META_JSON,
                "data": {"k": base64.b64encode(b"v").decode()},
                "type": "Opaque",
                "stringData": {"s": "t"},
            },
        ),
        (
            "coordination.k8s.io/v1",
            "Lease",
            (
                (1, META),
                (
                    2,
                    ((1, "me"), (2, 15), (3, ((1, SECONDS), (2, 123_456_000))), (4, ((1, SECONDS),)), (5, 0)),
                ),
            ),
            {
                "metadata": META_JSON,
                "spec": {
                    "holderIdentity": "me",
                    "leaseDurationSeconds": 15,
                    "acquireTime": "2026-01-01T00:00:00.123456Z",
                    "renewTime": "2026-01-01T00:00:00.000000Z",
                    "leaseTransitions": 0,
                },
            },
        ),
        (
            "v1",
            "Event",
            (
                (1, META),
                (2, ((1, "Pod"), (2, "default"), (3, "p"), (7, ""))),
                (3, "Started"),
                (4, "it started"),
                (5, ((1, "kubelet"), (2, "here"))),
                (6, ((1, SECONDS),)),
                (8, 2),
                (9, "Normal"),
                (10, ()),
                (14, ""),
            ),
            {
                "metadata": META_JSON,
                "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
                "reason": "Started",
                "message": "it started",
                "source": {"component": "kubelet", "host": "here"},
                "firstTimestamp": "2026-01-01T00:00:00Z",
                "count": 2,
                "type": "Normal",
            },
        ),
        (
            "apps/v1",  # each group has one of its own
            "DeleteOptions",
            ((1, 5), (2, ((1, "u"), (2, "7"))), (4, "Foreground"), (5, "All")),
            {
                "gracePeriodSeconds": 5,
                "preconditions": {"uid": "u", "resourceVersion": "7"},
                "propagationPolicy": "Foreground",
                "dryRun": ["All"],
            },
        ),
    ],
)
def test_objects_that_go_clients_send(api_version, kind, fields, read):
    found = protobuf.read(envelope(api_version, kind, message(*fields)))
    assert found == {"apiVersion": api_version, "kind": kind, **read}


def test_owner_references():
    body = message((1, ((1, "a"), (13, OWNER))))
    (owner,) = protobuf.read(envelope("v1", "ConfigMap", body))["metadata"]["ownerReferences"]
    assert owner == {
        "kind": "Revision",
        "name": "r",
        "uid": "u",
        "apiVersion": "serving.knative.dev/v1",
        "controller": True,
        "blockOwnerDeletion": False,
    }


def test_a_negative_number_is_read():
    found = protobuf.read(envelope("v1", "DeleteOptions", message((1, -1))))
    assert found["gracePeriodSeconds"] == -1


@pytest.mark.parametrize(("api_version", "kind"), [("v1", "Pod"), ("apps/v1", "Deployment"), ("", "")])
def test_a_kind_that_must_come_as_json_is_415(api_version, kind):
    with pytest.raises(ApiError, match="send JSON or YAML") as refused:
        protobuf.read(envelope(api_version, kind, b""))
    assert refused.value.code == 415


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"k8s\x00\xff",
        b"k8s\x00" + b"\x0a\x7fshort",
        b"k8s\x00" + b"\xff" * 11,
        b"k8s\x00\x0b",
        envelope("v1", "ConfigMap", message((1, ((1, b"\xff"),)))),
        envelope("coordination.k8s.io/v1", "Lease", message((2, ((3, ((1, 2**62),)),)))),
    ],
)
def test_damaged_bodies_are_400(data):
    with pytest.raises(ApiError) as refused:
        protobuf.read(data)
    assert refused.value.code == 400
