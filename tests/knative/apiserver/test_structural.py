"""Structural schemas: violations, unknown fields, pruning, defaults and nulls."""

import copy
from typing import Any

import pytest

from knative.local.apiserver.schemas import structural
from knative.local.apiserver.schemas.structural import (
    BOOLEAN,
    FREE,
    INT32,
    QUANTITY,
    STRING,
    map_list,
    mapping,
    set_list,
    struct,
)

ENV = struct({"name": STRING, "value": {**STRING, "default": "x"}}, required=("name",))
SCHEMA = struct(
    {
        "text": {**STRING, "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
        "choice": {**STRING, "enum": ["a", "b"]},
        "count": {**INT32, "minimum": 1, "maximum": 9},
        "ratio": {"type": "number"},
        "flag": BOOLEAN,
        "size": QUANTITY,
        "env": map_list(ENV, "name"),
        "words": set_list(STRING),
        "some": {"type": "array", "items": STRING, "minItems": 1, "maxItems": 2},
        "labels": mapping(STRING),
        "free": FREE,
        "maybe": {**STRING, "nullable": True},
    }
)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"text": "ab", "choice": "a", "count": 9, "ratio": 1, "flag": False},
        {"ratio": 1.5, "size": 1, "maybe": None, "free": {"anything": [1, {}]}},
        {"size": "500m", "env": [{"name": "A"}, {"name": "B"}], "words": ["a", "b"], "some": ["a"]},
        {"count": 1.0},
    ],
)
def test_values_that_satisfy_the_schema(value):
    assert list(structural.violations(SCHEMA, value)) == []


@pytest.mark.parametrize(
    ("value", "field", "reason", "message"),
    [
        ([], "", "FieldValueTypeInvalid", 'must be of type object: "array"'),
        ({"text": 1}, "text", "FieldValueTypeInvalid", 'text in body must be of type string: "integer"'),
        ({"text": None}, "text", "FieldValueTypeInvalid", 'must be of type string: "null"'),
        ({"flag": 1}, "flag", "FieldValueTypeInvalid", 'must be of type boolean: "integer"'),
        ({"count": True}, "count", "FieldValueTypeInvalid", 'must be of type integer: "boolean"'),
        ({"count": 1.5}, "count", "FieldValueTypeInvalid", 'must be of type integer: "number"'),
        ({"size": True}, "size", "FieldValueTypeInvalid", "must be of type integer,string"),
        ({"size": "1GB"}, "size", "FieldValueInvalid", "should match"),
        ({"text": "a"}, "text", "FieldValueInvalid", "should be at least 2 chars long"),
        ({"text": "abcde"}, "text", "FieldValueInvalid", "should be at most 4 chars long"),
        ({"text": "A1"}, "text", "FieldValueInvalid", "should match '^[a-z]+$'"),
        ({"choice": "c"}, "choice", "FieldValueNotSupported", 'supported values: "a", "b"'),
        ({"count": 0}, "count", "FieldValueInvalid", "should be greater than or equal to 1"),
        ({"count": 10}, "count", "FieldValueInvalid", "should be less than or equal to 9"),
        ({"env": [{}]}, "env[0].name", "FieldValueRequired", "Required value"),
        (
            {"env": [{"name": "A"}, {"name": "A"}]},
            "env[1]",
            "FieldValueDuplicate",
            'Duplicate value: {"name": "A"}',
        ),
        ({"words": ["a", "a"]}, "words[1]", "FieldValueDuplicate", 'Duplicate value: "a"'),
        ({"some": []}, "some", "FieldValueInvalid", "should have at least 1 items"),
        ({"some": ["a", "b", "c"]}, "some", "FieldValueTooMany", "must have at most 2 items"),
        ({"labels": {"x": 1}}, "labels.x", "FieldValueTypeInvalid", "must be of type string"),
    ],
)
def test_violations(value, field, reason, message):
    (found,) = structural.violations(SCHEMA, value)
    assert (found.field, found.reason) == (field, reason)
    assert message in found.message


def test_a_number_outside_of_its_format_is_a_violation():
    schema = struct({"n": {"type": "integer", "format": "int64"}})
    assert [cause.field for cause in structural.violations(schema, {"n": 2**63})] == ["n"]


def test_a_message_repeats_the_beginning_of_a_long_value():
    (found,) = structural.violations(struct({"text": {**STRING, "maxLength": 1}}), {"text": "x" * 100_000})
    assert len(found.message) < 400


UNKNOWN = {
    "text": "ab",
    "nope": 1,
    "env": [{"name": "A", "nope": {"deep": 1}}],
    "labels": {"any": "x"},
    "free": {"nope": 1},
}


def test_unknown_fields_are_named_and_pruned():
    assert list(structural.unknown_fields(SCHEMA, UNKNOWN)) == ["nope", "env[0].nope"]
    value = copy.deepcopy(UNKNOWN)
    structural.prune(SCHEMA, value)
    assert value == {"text": "ab", "env": [{"name": "A"}], "labels": {"any": "x"}, "free": {"nope": 1}}


def test_defaults_are_filled_in_where_nothing_is():
    value: dict[str, Any] = {"env": [{"name": "A"}, {"name": "B", "value": "y"}]}
    structural.fill_defaults(SCHEMA, value)
    assert value == {"env": [{"name": "A", "value": "x"}, {"name": "B", "value": "y"}]}


def test_nulls_are_dropped_unless_they_are_allowed():
    value = {"text": None, "maybe": None, "env": [{"name": "A", "value": None}], "labels": {"x": None}}
    structural.drop_nulls(SCHEMA, value)
    assert value == {"maybe": None, "env": [{"name": "A"}], "labels": {}}
