"""Names, labels, annotations and finalizers."""

import pytest

from knative.client.resources import NAMESPACE, SERVICE
from knative.local.apiserver import metadata


@pytest.mark.parametrize(
    ("resource", "name", "text"),
    [
        (SERVICE, "a", None),
        (SERVICE, "a.b-c.1", None),
        (SERVICE, "x" * 253, None),
        (NAMESPACE, "x" * 63, None),
        (SERVICE, "", "Required value"),
        (SERVICE, "A", "a lowercase RFC 1123 subdomain"),
        (SERVICE, "-a", "a lowercase RFC 1123 subdomain"),
        (SERVICE, "a..b", "a lowercase RFC 1123 subdomain"),
        (SERVICE, "a\n", "a lowercase RFC 1123 subdomain"),
        (SERVICE, "../etc", "a lowercase RFC 1123 subdomain"),
        (SERVICE, "x" * 254, "must be no more than 253 bytes"),
        (NAMESPACE, "a.b", "a lowercase RFC 1123 label"),
        (NAMESPACE, "x" * 64, "must be no more than 63 bytes"),
    ],
)
def test_names(resource, name, text):
    found = metadata.name_violation(resource, name)
    assert (found is None) if text is None else (found is not None and text in found.message)


@pytest.mark.parametrize(
    ("meta", "texts"),
    [
        ({}, []),
        ({"labels": {"example.com/a": "b", "a": ""}}, []),
        ({"labels": {"a": 1}}, []),  # a violation of the schema, which says so
        ({"labels": {"a": "b c"}}, ["a valid label must be"]),
        ({"labels": {"a": "b" * 64}}, ["must be no more than 63 bytes"]),
        ({"labels": {"x/y/z": "a"}}, ["a qualified name must consist of"]),
        ({"labels": {"/y": "a"}}, ["prefix part must be non-empty"]),
        ({"labels": {"A.com/y": "a"}}, ["prefix part a lowercase RFC 1123 subdomain"]),
        ({"labels": {f"{'a' * 254}/y": "a"}}, ["prefix part must be no more than 253 bytes"]),
        ({"labels": {"a" * 64: "a"}}, ["name part must be no more than 63 bytes"]),
        ({"annotations": {"A.com/y": "anything: é\n"}}, []),
        ({"annotations": {"a": "x" * 262_144}}, ["Too long: may not be more than 262144 bytes"]),
        ({"finalizers": ["example.com/hold"]}, []),
        ({"finalizers": [""]}, ["name part must be non-empty", "name part must consist of"]),
    ],
)
def test_violations(meta, texts):
    found = [cause.message for cause in metadata.violations(meta)]
    assert len(found) == len(texts)
    assert all(text in message for text, message in zip(texts, found, strict=True))


def test_a_message_repeats_the_beginning_of_a_long_value():
    (cause,) = metadata.violations({"labels": {"a": "!" * 100_000}})
    assert len(cause.message) < 400
