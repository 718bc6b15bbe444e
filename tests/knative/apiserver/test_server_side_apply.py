"""Server-side apply and `managedFields`, as functions of objects."""

from typing import Any

import pytest

from knative.local.apiserver.errors import ApiError, ResourceRef
from knative.local.apiserver.managed_fields import record_status_update, record_update
from knative.local.apiserver.schemas.object_meta import OBJECT_META
from knative.local.apiserver.schemas.structural import FREE, STRING, map_list, mapping, struct
from knative.local.apiserver.server_side_apply import LAST_APPLIED_ANNOTATION, apply

SCHEMA = struct(
    {
        "apiVersion": STRING,
        "kind": STRING,
        "metadata": OBJECT_META,
        "data": mapping(STRING),
        "spec": struct({"env": map_list(struct({"name": STRING, "value": STRING}), "name")}),
        "status": FREE,
    }
)
REF = ResourceRef("", "things", "a", "Thing")
THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def thing(data: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    made = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", **more.pop("meta", {})}, **more}
    return made if data is None else {**made, "data": data}


def applied(live: Any, config: Any, manager: str = "one", **options: Any) -> dict[str, Any]:
    options = {"force": False, "now": NOW, "ref": REF, **options}
    return apply(SCHEMA, live, config, manager=manager, **options)


def updated(live: Any, new: dict[str, Any], manager: str = "user") -> dict[str, Any]:
    if live is not None and "managedFields" in live["metadata"]:
        new["metadata"]["managedFields"] = live["metadata"]["managedFields"]
    record_update(SCHEMA, live, new, manager=manager, operation="Update", now=THEN)
    return new


def owned(obj: dict[str, Any]) -> dict[str, Any]:
    """FieldsV1 by manager."""
    return {entry["manager"]: entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", [])}


def test_applying_makes_the_object_and_owns_its_fields():
    made = applied(None, thing({"a": "1"}))
    assert made["data"] == {"a": "1"}
    assert made["metadata"]["managedFields"] == [
        {
            "manager": "one",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": NOW,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:a": {}}},
        }
    ]


@pytest.mark.parametrize(
    ("first", "second", "data", "ownership"),
    [
        # What the manager no longer applies is removed.
        ({"a": "1", "b": "2"}, {"a": "1"}, {"a": "1"}, {"one": {"f:data": {"f:a": {}}}}),
        ({"a": "1"}, {"a": "9"}, {"a": "9"}, {"one": {"f:data": {"f:a": {}}}}),
        ({"a": "1"}, {"b": "2"}, {"b": "2"}, {"one": {"f:data": {"f:b": {}}}}),
    ],
)
def test_applying_again_prunes_and_changes(first, second, data, ownership):
    changed = applied(applied(None, thing(first)), thing(second))
    assert (changed["data"], owned(changed)) == (data, ownership)


def test_what_another_manager_owns_too_stays():
    both = applied(applied(None, thing({"a": "1"})), thing({"a": "1"}), "two")
    left = applied(both, thing({"b": "1"}))
    assert left["data"] == {"a": "1", "b": "1"}
    assert owned(left) == {"two": {"f:data": {"f:a": {}}}, "one": {"f:data": {"f:b": {}}}}


@pytest.mark.parametrize(
    ("live", "config", "message"),
    [
        (  # managers that apply are named without an API version
            applied(None, thing({"a": "1"})),
            thing({"a": "2"}),
            'Apply failed with 1 conflict: conflict with "one": .data.a',
        ),
        (
            updated(None, thing({"a": "1"})),
            thing({"a": "2"}),
            'Apply failed with 1 conflict: conflict with "user" using v1: .data.a',
        ),
        (
            updated(applied(None, thing({"a": "1", "b": "1"}), "zed"), thing({"a": "1", "b": "1", "c": "1"})),
            thing({"a": "2", "b": "2", "c": "2"}),
            (
                'Apply failed with 3 conflicts: conflicts with "user" using v1:\n- .data.c\n'
                'conflicts with "zed":\n- .data.a\n- .data.b'
            ),
        ),
        (
            applied(None, thing(spec={"env": [{"name": "A", "value": "1"}]})),
            thing(spec={"env": [{"name": "A", "value": "2"}]}),
            'Apply failed with 1 conflict: conflict with "one": .spec.env[name="A"].value',
        ),
    ],
)
def test_conflicts_are_worded_as_in_kubernetes_until_they_are_forced(live, config, message):
    with pytest.raises(ApiError) as refused:
        applied(live, config, "two")
    assert (refused.value.code, refused.value.reason, refused.value.message) == (409, "Conflict", message)
    assert {cause.reason for cause in refused.value.causes} == {"FieldManagerConflict"}
    forced = applied(live, config, "two", force=True)
    assert {key: forced[key] for key in ("data", "spec") if key in forced} == {
        key: config[key] for key in ("data", "spec") if key in config
    }


def test_a_conflict_on_status_names_the_subresource():
    live = thing(status={"url": "x"})
    entry = {
        "manager": "controller",
        "operation": "Update",
        "apiVersion": "v1",
        "subresource": "status",
        "fieldsV1": {"f:status": {"f:url": {}}},
    }
    live["metadata"]["managedFields"] = [entry]
    with pytest.raises(
        ApiError, match=r'conflict with "controller" with subresource "status" using v1: \.status\.url'
    ):
        applied(live, thing(status={"url": "y"}), subresource="status")


def test_a_manager_that_applies_is_the_same_one_in_another_version_of_the_kind():
    live = applied(None, thing({"a": "1", "b": "1"}))
    newer = applied(live, {**thing({"a": "2"}), "apiVersion": "v2"})
    assert newer["data"] == {"a": "2"}
    assert len(newer["metadata"]["managedFields"]) == 1


def test_an_object_without_managed_fields_belongs_to_nobody_that_applies():
    with pytest.raises(ApiError, match='conflict with "before-first-apply" using v1'):
        applied(thing({"a": "1"}), thing({"a": "2"}))


def test_items_of_keyed_lists_merge_and_go_with_their_manager():
    live = applied(None, thing(spec={"env": [{"name": "A", "value": "1"}]}))
    both = applied(live, thing(spec={"env": [{"name": "B", "value": "2"}]}), "two")
    assert [item["name"] for item in both["spec"]["env"]] == ["A", "B"]
    left = applied(both, thing(spec={"env": []}))
    assert [item["name"] for item in left["spec"]["env"]] == ["B"]
    assert [item["name"] for item in both["spec"]["env"]] == ["A", "B"]  # the live object is left alone


def test_kubectl_takes_over_what_its_client_side_apply_has_set():
    last = '{"apiVersion":"v1","kind":"Thing","metadata":{"name":"a"},"data":{"a":"1","b":"1"}}'
    live = updated(None, thing({"a": "1", "b": "8"}, meta={"annotations": {LAST_APPLIED_ANNOTATION: last}}))
    assert applied(live, thing({"a": "2"}), "kubectl")["data"] == {"a": "2", "b": "8"}
    with pytest.raises(ApiError, match=r"\.data\.b"):  # changed by somebody else since
        applied(live, thing({"b": "2"}), "kubectl")
    with pytest.raises(ApiError, match=r"\.data\.a"):
        applied(live, thing({"a": "2"}), "other")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10_000, '{"apiVersion":"v2"}'])
def test_a_last_applied_annotation_that_cannot_be_read_counts_for_nothing(text):
    live = updated(None, thing({"a": "1"}, meta={"annotations": {LAST_APPLIED_ANNOTATION: text}}))
    with pytest.raises(ApiError, match=r"\.data\.a"):
        applied(live, thing({"a": "2"}), "kubectl")


def test_an_update_owns_what_it_changes_and_takes_it_from_others():
    live = applied(None, thing({"a": "1", "b": "1"}))
    changed = updated(live, thing({"a": "2", "b": "1", "c": "1"}))
    assert owned(changed) == {"one": {"f:data": {"f:b": {}}}, "user": {"f:data": {"f:a": {}, "f:c": {}}}}


@pytest.mark.parametrize("given", [[], [{}]])
def test_managed_fields_can_be_started_over(given):
    live = applied(None, thing({"a": "1"}))
    new = thing({"a": "1"})
    new["metadata"]["managedFields"] = given
    record_update(SCHEMA, live, new, manager="user", operation="Update", now=THEN)
    assert "managedFields" not in new["metadata"]


@pytest.mark.parametrize(
    "entry",
    [
        "odd",
        {"operation": "Other", "fieldsV1": {}},
        {"operation": "Update", "fieldsV1": {"f:data": "x"}},
        {"operation": "Update", "fieldsV1": {"k:odd": {}}},
        {"operation": "Update", "fieldsV1": {"v:odd": {}}},
        {"operation": "Update", "manager": 1, "fieldsV1": {}},
    ],
)
def test_managed_fields_that_cannot_be_read_are_ignored(entry):
    live = applied(None, thing({"a": "1"}))
    new = thing({"a": "1"})
    new["metadata"]["managedFields"] = [entry]
    record_update(SCHEMA, live, new, manager="user", operation="Update", now=THEN)
    assert owned(new) == {"one": {"f:data": {"f:a": {}}}}


def test_a_status_with_the_same_fields_changes_its_time_only():
    old = thing(status={"url": "x"})
    first = thing(status={"url": "y"})
    record_status_update(SCHEMA, old, first, manager="controller", now=THEN)
    second = thing(status={"url": "z"}, meta={"managedFields": first["metadata"]["managedFields"]})
    record_status_update(SCHEMA, first, second, manager="controller", now=NOW)
    (before,), (after,) = first["metadata"]["managedFields"], second["metadata"]["managedFields"]
    assert after == {**before, "time": NOW}
    assert after["fieldsV1"] == {"f:status": {".": {}, "f:url": {}}}
