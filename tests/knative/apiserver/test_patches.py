"""The patch formats, as functions of object and patch."""

import pytest

from knative.local.apiserver.api.patches import json_patch, merge_patch, strategic_patch
from knative.local.apiserver.errors import ApiError


@pytest.mark.parametrize(
    ("obj", "patch", "patched"),
    [  # examples of RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(obj, patch, patched):
    assert merge_patch(obj, patch) == patched


@pytest.mark.parametrize(
    ("obj", "patch", "patched"),
    [
        ({"data": {"a": "1"}}, {"data": {"b": "2"}}, {"data": {"a": "1", "b": "2"}}),
        ({"data": {"a": "1"}}, {"data": {"a": None}}, {"data": {}}),
        ({"data": {"a": "1"}}, {"data": {"$patch": "replace", "b": "2"}}, {"data": {"b": "2"}}),
        ({"finalizers": ["x"]}, {"finalizers": ["y", "x"]}, {"finalizers": ["x", "y"]}),
        (
            {"finalizers": ["x", "y"]},
            {"$deleteFromPrimitiveList/finalizers": ["x"], "$setElementOrder/finalizers": ["y"]},
            {"finalizers": ["y"]},
        ),
        ({"items": [{"name": "a"}]}, {"items": [{"name": "b"}]}, {"items": [{"name": "b"}]}),
    ],
)
def test_strategic_patch(obj, patch, patched):
    assert strategic_patch(obj, patch) == patched


def test_a_directive_that_is_not_supported_is_refused_instead_of_ignored():
    with pytest.raises(ApiError, match=r"\$patch, which this platform does not support"):
        strategic_patch({"data": {}}, {"data": {"$patch": "delete"}})


def test_json_patch_leaves_the_object_alone():
    obj = {"a": {"b": 1}}
    assert json_patch(obj, [{"op": "add", "path": "/a/c", "value": 2}]) == {"a": {"b": 1, "c": 2}}
    assert obj == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ({}, 400),
        ([1], 400),
        ([{"op": "nonsense", "path": "/a"}], 400),
        ([{"op": "remove"}], 400),
        ([{"op": "replace", "path": "", "value": []}], 400),
        ([{"op": "remove", "path": "/missing"}], 422),
        ([{"op": "test", "path": "/a", "value": 2}], 422),
    ],
)
def test_json_patches_that_cannot_be_applied(operations, code):
    with pytest.raises(ApiError) as refused:
        json_patch({"a": 1}, operations)
    assert refused.value.code == code


def test_copies_of_a_json_patch_cannot_grow_without_bound():
    doubling = [{"op": "copy", "from": "/a", "path": f"/a/{number}"} for number in range(64)]
    with pytest.raises(ApiError, match="more than 5000 fields") as refused:
        json_patch({"a": {"x": 1}}, doubling)
    assert refused.value.code == 413
