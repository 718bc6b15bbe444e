"""Label and field selectors as predicates."""

import pytest

from knative.local.apiserver.api import selectors
from knative.local.apiserver.errors import ApiError

OBJ = {
    "metadata": {"name": "a", "namespace": "default", "labels": {"app": "web", "tier": "1", "empty": ""}},
    "involvedObject": {"name": "x", "kind": "Pod"},
    "source": {"component": "kubelet"},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        (None, True),
        ("", True),
        (" , ", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("missing=", False),
        ("empty=", True),
        ("app in (web,db)", True),
        ("app in (db)", False),
        ("app notin (db, cache)", True),
        ("app notin (web)", False),
        ("missing notin (web)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("!app", False),
        ("app=web,tier in (1,2),!missing", True),
        ("app=web,tier=2", False),
    ],
)
def test_label_selectors(text, matches):
    assert selectors.labels(text)(OBJ) is matches


@pytest.mark.parametrize("text", ["a=b=c", "a in b", "a in (b", "=x", "a b", "()", "a>1"])
def test_a_label_selector_that_cannot_be_parsed_is_400(text):
    with pytest.raises(ApiError, match="unable to parse requirement") as refused:
        selectors.labels(text)
    assert refused.value.code == 400


def test_an_object_without_labels_matches_what_asks_for_none():
    bare = {"metadata": {"name": "a"}}
    assert selectors.labels("!app")(bare)
    assert not selectors.labels("app")(bare)


@pytest.mark.parametrize(
    ("text", "plural", "matches"),
    [
        (None, "pods", True),
        ("metadata.name=a", "services", True),
        ("metadata.name!=a", "services", False),
        ("metadata.namespace=default,metadata.name=a", "services", True),
        ("status.phase=Running", "pods", True),
        ("status.phase!=Running", "pods", False),
        ("spec.nodeName=", "pods", True),
        ("involvedObject.kind=Pod,involvedObject.name=x", "events", True),
        ("source=kubelet", "events", True),
    ],
)
def test_field_selectors(text, plural, matches):
    assert selectors.fields(text, plural)(OBJ) is matches


@pytest.mark.parametrize(
    ("text", "plural", "message"),
    [
        ("status.phase=Running", "services", "field label not supported: status.phase"),
        ("metadata.name", "pods", "invalid selector"),
        ("metadata.name in (a)", "pods", "invalid selector"),
    ],
)
def test_a_field_selector_that_cannot_be_used_is_400(text, plural, message):
    with pytest.raises(ApiError, match=message):
        selectors.fields(text, plural)
