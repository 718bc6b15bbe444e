"""Validation of names, labels, annotations and finalizers, worded as in Kubernetes (pure).

Source: k8s.io/apimachinery, `pkg/util/validation/validation.go` and `pkg/api/validation/objectmeta.go`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from knative.client.errors import Cause
from knative.client.resources import NAMESPACE, Object, Resource

USER = "kubernetes-admin"
"""The user name of every client: there is one token."""

_LABEL_1123 = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_1123 = rf"{_LABEL_1123}(\.{_LABEL_1123})*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = rf"({_QUALIFIED})?"
_MAX_ANNOTATION_BYTES = 256 * 1024
_MAX_NAME = 253
_MAX_SHOWN = 256
"""Characters of a wrong value that a message repeats."""


def _rule(text: str, pattern: str, *examples: str) -> str:
    listed = ",  or ".join(f"'{example}'" for example in examples)
    return f"{text} (e.g. {listed}, regex used for validation is '{pattern}')"


_SUBDOMAIN_RULE = _rule(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character",
    _SUBDOMAIN_1123,
    "example.com",
)
_LABEL_RULE = _rule(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character",
    _LABEL_1123,
    "my-name",
    "123-abc",
)
_QUALIFIED_RULE = _rule(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character",
    _QUALIFIED,
    "MyName",
    "my.name",
    "123-abc",
)
_VALUE_RULE = _rule(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character",
    _VALUE,
    "MyValue",
    "my_value",
    "12345",
)


def is_subdomain(name: str) -> bool:
    """Whether a text is a name that most kinds accept: an RFC 1123 subdomain of at most 253 characters."""
    return len(name) <= _MAX_NAME and re.fullmatch(_SUBDOMAIN_1123, name) is not None


def name_violation(resource: Resource, name: str) -> Cause | None:
    """What is wrong with an object's name, or None."""
    if not name:
        return Cause(
            "Required value: name or generateName is required", "metadata.name", "FieldValueRequired"
        )
    is_label = resource == NAMESPACE
    pattern, rule = (_LABEL_1123, _LABEL_RULE) if is_label else (_SUBDOMAIN_1123, _SUBDOMAIN_RULE)
    longest = 63 if is_label else _MAX_NAME
    if len(name) > longest:
        return _invalid("metadata.name", name, f"must be no more than {longest} bytes")
    return None if re.fullmatch(pattern, name) else _invalid("metadata.name", name, rule)


def violations(meta: Object) -> Iterator[Cause]:
    """What is wrong with labels, annotations and finalizers."""
    labels = _texts(meta.get("labels"))
    for key, value in labels.items():
        for text in _qualified(key):
            yield _invalid("metadata.labels", key, text)
        if len(value) > 63:
            yield _invalid("metadata.labels", value, "must be no more than 63 bytes")
        elif not re.fullmatch(_VALUE, value):
            yield _invalid("metadata.labels", value, _VALUE_RULE)
    annotations = _texts(meta.get("annotations"))
    for key in annotations:
        for text in _qualified(key.lower()):  # an annotation's prefix may have capitals
            yield _invalid("metadata.annotations", key, text)
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > _MAX_ANNOTATION_BYTES:
        yield Cause(
            f"Too long: may not be more than {_MAX_ANNOTATION_BYTES} bytes",
            "metadata.annotations",
            "FieldValueTooLong",
        )
    finalizers = meta.get("finalizers")
    for finalizer in finalizers if isinstance(finalizers, list) else ():
        for text in _qualified(str(finalizer)):
            yield _invalid("metadata.finalizers", str(finalizer), text)


def _texts(value: Any) -> Mapping[str, str]:
    """The entries of a map that are strings; others are violations of the schema."""
    entries = value if isinstance(value, dict) else {}
    return {key: item for key, item in entries.items() if isinstance(item, str)}


def _qualified(name: str) -> Iterator[str]:
    """What is wrong with a name that may have a DNS subdomain and a slash in front."""
    prefix, slash, rest = name.rpartition("/")
    if "/" in prefix:
        yield (
            f"a qualified name {_QUALIFIED_RULE} with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')"
        )
        return
    if slash and not prefix:
        yield "prefix part must be non-empty"
    elif slash and len(prefix) > 253:
        yield "prefix part must be no more than 253 bytes"
    elif slash and not re.fullmatch(_SUBDOMAIN_1123, prefix):
        yield f"prefix part {_SUBDOMAIN_RULE}"
    if not rest:
        yield "name part must be non-empty"
    elif len(rest) > 63:
        yield "name part must be no more than 63 bytes"
        return
    if not re.fullmatch(_QUALIFIED, rest):
        yield f"name part {_QUALIFIED_RULE}"


def _invalid(field: str, value: str, rule: str) -> Cause:
    shown = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}..."
    return Cause(f'Invalid value: "{shown}": {rule}', field, "FieldValueInvalid")
