"""The difference that a watch reports after it had to list the objects again."""

import pytest

from knative.client.known_objects import KnownObjects
from knative.client.resources import NAMESPACE, SERVICE


def obj(name, version, namespace="default"):
    meta = {"name": name, "uid": f"uid-{name}", "resourceVersion": version}
    return {"metadata": meta | ({"namespace": namespace} if namespace else {})}


def listed(known, *pages):
    known.begin_list()
    events = [event for page in pages for event in known.list_page(page)]
    return [(kind, one["metadata"]["name"]) for kind, one in (*events, *known.end_list())]


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        ({}, {}, []),
        ({}, {"a": "1"}, [("ADDED", "a")]),
        ({"a": "1"}, {"a": "1"}, []),
        ({"a": "1"}, {"a": "2"}, [("MODIFIED", "a")]),
        ({"a": "1"}, {}, [("DELETED", "a")]),
        ({"a": "1", "b": "2"}, {"b": "3", "c": "4"}, [("MODIFIED", "b"), ("ADDED", "c"), ("DELETED", "a")]),
    ],
)
def test_a_second_list_reports_the_difference(before, after, events):
    known = KnownObjects(SERVICE)
    listed(known, [obj(name, version) for name, version in before.items()])
    assert listed(known, *[[obj(name, version)] for name, version in after.items()]) == events


def test_changes_seen_in_between_are_not_reported_again():
    known = KnownObjects(SERVICE)
    listed(known, [obj("a", "1"), obj("b", "1")])
    known.change("MODIFIED", obj("a", "2"))
    known.change("DELETED", obj("b", "3"))
    known.change("ADDED", obj("c", "4"))
    assert listed(known, [obj("a", "2"), obj("c", "4")]) == []


def test_a_list_that_broke_off_reports_no_deletions():
    known = KnownObjects(SERVICE)
    listed(known, [obj("a", "1"), obj("b", "1")])
    known.begin_list()
    assert list(known.list_page([obj("a", "1")])) == []
    assert listed(known, [obj("a", "1"), obj("b", "1")]) == []


@pytest.mark.parametrize(("resource", "namespace"), [(SERVICE, "default"), (NAMESPACE, "")])
def test_an_unseen_deletion_has_the_last_known_metadata(resource, namespace):
    known = KnownObjects(resource)
    listed(known, [obj("a", "7", namespace)])
    known.begin_list()
    ((kind, last),) = known.end_list()
    meta = {"name": "a", "uid": "uid-a", "resourceVersion": "7"}
    assert (kind, last["kind"]) == ("DELETED", resource.kind)
    assert last["metadata"] == meta | ({"namespace": namespace} if namespace else {})
