"""Parsing of request bodies: formats, duplicate fields, and limits that hold before the work is done."""

import json
import time

import pytest

from knative.local.apiserver.api import bodies
from knative.local.apiserver.api.bounds import MAX_DEPTH, MAX_VALUES, check_bounds
from knative.local.apiserver.errors import ApiError

JSON, YAML, APPLY = "application/json", "application/yaml", "application/apply-patch+yaml"
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{level}: &a{level}\n  <<: [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)


@pytest.mark.parametrize(
    ("data", "kind", "value"),
    [
        ('{"a": [1, 1.5, true, null, "x"]}', JSON, {"a": [1, 1.5, True, None, "x"]}),
        ('{"a": 1}', "application/merge-patch+json", {"a": 1}),
        ('{"a": 1}', APPLY, {"a": 1}),  # what clients that apply on the server send
        ("{a: 1}", APPLY, {"a": 1}),
        ("a: 1\nb: [x]\n", YAML, {"a": 1, "b": ["x"]}),
        ("a: 2026-01-01\n1: b\n", YAML, {"a": "2026-01-01", "1": "b"}),
        ("", YAML, None),
    ],
)
async def test_formats(data, kind, value):
    assert (await bodies.parse(data.encode(), kind)).value == value


@pytest.mark.parametrize(
    ("data", "kind", "code", "text"),
    [
        ("{", JSON, 400, "unrecognized"),
        ('{"a": NaN}', JSON, 400, "NaN is not a JSON value"),
        ('{"a": -Infinity}', JSON, 400, "-Infinity is not a JSON value"),
        ("9" * 5000, JSON, 400, "unrecognized"),
        (b"\xff\xff\xff", JSON, 400, "unrecognized"),
        ("a: [", YAML, 400, "unrecognized"),
        ("a: .nan", YAML, 400, "nan is not a JSON value"),
        ("a: 1\n---\nb: 2\n", YAML, 400, "unrecognized"),
        ("!!python/object:os.system x", YAML, 400, "unrecognized"),
        ("x", "text/plain", 415, '"text/plain"'),
        ("a=b", "application/x-www-form-urlencoded", 415, "unknown format"),
        ("{}", "evil/notjson", 415, "unknown format"),
        (BOMB, APPLY, 400, "YAML aliases are not accepted"),
        (MERGES, APPLY, 400, "YAML aliases are not accepted"),
        ("&a [*a]", YAML, 400, "YAML aliases are not accepted"),
        ("[" * 100_000, JSON, 413, "nested more than 100 levels deep"),
        ("[" * 10_000 + "]" * 10_000, JSON, 413, "nested more than 100 levels deep"),
        ("[" * 10_000 + "]" * 10_000, YAML, 413, "nested more than 100 levels deep"),
        ("a: 1" + ":1" * 100_000, YAML, 400, "a number is too long"),
        ("- " * 130_000, YAML, 413, "nested more than 100 levels deep"),
        ("? " * 130_000, YAML, 413, "nested more than 100 levels deep"),
        ("a: " + "{" * 200_000, YAML, 413, "nested more than 100 levels deep"),
        ("a:\n" + "- x\n" * 6_000, YAML, 413, "more than 5000 fields"),
        ("a: x\n" * 60_000, YAML, 413, "a body in YAML is larger than 262144 bytes"),
        (json.dumps({str(number): 0 for number in range(6_000)}), JSON, 413, "more than 5000 fields"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_bodies_that_are_refused(data, kind, code, text):
    with pytest.raises(ApiError) as refused:
        await bodies.parse(data if isinstance(data, bytes) else data.encode(), kind)
    assert refused.value.code == code
    assert text in refused.value.message


async def test_refusing_takes_no_longer_for_more_levels_of_aliases():
    start = time.process_time()
    with pytest.raises(ApiError):
        await bodies.parse(BOMB.encode(), APPLY)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("validation", "warnings"),
    [("Warn", ['duplicate field "a"', 'duplicate field "a"']), ("Ignore", [])],
)
async def test_duplicate_fields(validation, warnings):
    parsed = await bodies.parse(b'{"a": 1, "a": 2, "a": 3, "b": {"c": 1}}', JSON)
    assert parsed.value == {"a": 3, "b": {"c": 1}}
    assert parsed.warnings(validation) == warnings
    with pytest.raises(ApiError, match='strict decoding error: duplicate field "a"'):
        parsed.warnings("Strict")


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [[]] * MAX_VALUES, {"a": {"b": [1]}}])
def test_objects_within_the_bounds(value):
    check_bounds(value)


def test_the_bounds_are_exact():
    check_bounds([0] * MAX_VALUES)
    with pytest.raises(ApiError):
        check_bounds([0] * (MAX_VALUES + 1))
    nested: list[object] = []
    for _ in range(MAX_DEPTH - 1):
        nested = [nested]
    check_bounds(nested)
    with pytest.raises(ApiError):
        check_bounds([nested])


def test_managed_fields_are_counted_apart():
    fields = {f"f:{number}": {} for number in range(MAX_VALUES - 10)}
    entries = [{"manager": str(number), "fieldsV1": {"f:data": fields}} for number in range(3)]
    check_bounds({"metadata": {"managedFields": entries}, "data": dict.fromkeys(fields, "")})
    with pytest.raises(ApiError, match="more than 20000 managed fields"):
        check_bounds({"metadata": {"managedFields": entries * 2}})


@pytest.mark.parametrize("value", [None, 1, "x", [], {"metadata": []}, {"metadata": "x"}])
def test_what_is_not_an_object_with_metadata_is_400(value):
    with pytest.raises(ApiError) as refused:
        bodies.mapping(value)
    assert refused.value.code == 400


@pytest.mark.parametrize("value", [{}, {"metadata": None}])
def test_missing_metadata_is_added(value):
    assert bodies.mapping(value) == {"metadata": {}}
