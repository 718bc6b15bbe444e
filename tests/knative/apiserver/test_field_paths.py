"""Which paths of an object can be owned, and how FieldsV1 spells them."""

import pytest

from knative.local.apiserver.field_paths import from_v1, leaves, same_shape, to_v1, with_parents
from knative.local.apiserver.schemas.structural import (
    FREE,
    STRING,
    atomic_list,
    map_list,
    mapping,
    set_list,
    struct,
)

SCHEMA = struct(
    {
        "metadata": struct({"name": STRING, "labels": mapping(STRING), "finalizers": set_list(STRING)}),
        "spec": struct(
            {
                "args": atomic_list(STRING),
                "env": map_list(struct({"name": STRING, "value": STRING}), "name"),
                "free": FREE,
                "whole": {**struct({"a": STRING}), "x-kubernetes-map-type": "atomic"},
            }
        ),
    }
)


@pytest.mark.parametrize(
    ("obj", "paths"),
    [
        ({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "uid": "u"}}, {}),
        ({"metadata": {"labels": {"x": "y"}}}, {("f:metadata", "f:labels", "f:x"): "y"}),
        ({"metadata": {"labels": {}}}, {("f:metadata", "f:labels"): {}}),
        ({"metadata": {"finalizers": ["a"]}}, {("f:metadata", "f:finalizers", 'v:"a"'): "a"}),
        ({"spec": {"args": ["a", "b"]}}, {("f:spec", "f:args"): ["a", "b"]}),
        (
            {"spec": {"env": [{"name": "A", "value": "1"}]}},
            {
                ("f:spec", "f:env", 'k:{"name":"A"}'): None,
                ("f:spec", "f:env", 'k:{"name":"A"}', "f:name"): "A",
                ("f:spec", "f:env", 'k:{"name":"A"}', "f:value"): "1",
            },
        ),
        (
            {"spec": {"free": {"a": {"b": 1}}}},
            {("f:spec", "f:free", "f:a"): None, ("f:spec", "f:free", "f:a", "f:b"): 1},
        ),
        ({"spec": {"whole": {"a": "1"}}}, {("f:spec", "f:whole"): {"a": "1"}}),
    ],
)
def test_leaves(obj, paths):
    assert leaves(SCHEMA, obj) == paths


def test_field_sets_survive_being_written_down():
    paths = with_parents(
        leaves(SCHEMA, {"spec": {"env": [{"name": "A"}], "args": []}, "metadata": {"labels": {"x": "y"}}})
    )
    tree = to_v1(paths)
    assert tree == {
        "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
        "f:spec": {".": {}, "f:args": {}, "f:env": {".": {}, 'k:{"name":"A"}': {".": {}, "f:name": {}}}},
    }
    assert frozenset(from_v1(tree, ())) == paths


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"args": ["a"]}, {"args": ["b", "c"]}, True),
        ({"args": ["a"]}, {"free": {}}, False),
        ({"free": {"a": 1}}, {"free": {"a": 2}}, True),
        ({"free": {"a": 1}}, {"free": {"b": 1}}, False),
        ({"free": {"a": 1}}, {"free": {"a": {"b": 1}}}, False),
        ({"whole": {"a": "1"}}, None, False),
    ],
)
def test_same_shape(one, other, same):
    schema = {**SCHEMA["properties"]["spec"]}
    schema["properties"] = {**schema["properties"], "args": {"type": "array", "items": STRING}}
    assert same_shape(schema, one, other) is same
