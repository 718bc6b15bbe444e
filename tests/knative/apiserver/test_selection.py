"""What a change of an object means to a watch with selectors."""

from typing import Any

import pytest

from knative.client.resources import CONFIG_MAP, SECRET
from knative.local.apiserver import kinds
from knative.local.apiserver.api import selectors
from knative.local.apiserver.api.selection import Selection
from knative.local.apiserver.records import Change, EventType, Key, Record

KINDS = kinds.load()
ADDED, MODIFIED, DELETED = EventType.ADDED, EventType.MODIFIED, EventType.DELETED


def record(on: bool, *, namespace: str = "default", resource: Any = CONFIG_MAP) -> Record:
    obj = {"metadata": {"name": "a", "namespace": namespace, "labels": {"on": "yes" if on else "no"}}}
    return Record(Key(resource, namespace, "a"), 1, obj, b"")


ON, OFF = record(True), record(False)


@pytest.mark.parametrize(
    ("change", "event"),
    [
        (Change(ADDED, ON, None), ADDED),
        (Change(ADDED, OFF, None), None),
        (Change(MODIFIED, ON, ON), MODIFIED),
        (Change(MODIFIED, ON, OFF), ADDED),
        (Change(MODIFIED, OFF, ON), DELETED),
        (Change(MODIFIED, OFF, OFF), None),
        (Change(DELETED, ON, ON), DELETED),
        (Change(DELETED, OFF, OFF), None),
        (Change(ADDED, record(True, namespace="other"), None), None),
        (Change(ADDED, record(True, resource=SECRET), None), None),
    ],
)
def test_events(change, event):
    selection = Selection(KINDS[CONFIG_MAP], "default", selectors.labels("on=yes"))
    found = selection.event(change)
    assert (None if found is None else found[0]) is event


def test_all_namespaces():
    selection = Selection(KINDS[CONFIG_MAP], None, selectors.labels(None))
    assert selection.has(record(True, namespace="other"))
    assert not selection.has(None)
