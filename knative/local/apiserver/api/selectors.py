"""Label and field selectors as predicates of objects (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from knative.local.apiserver.errors import bad_request

Predicate = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"(?P<key>[^\s!=,()<>]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)")
_EQUAL = re.compile(r"(?P<key>[^\s!=,()<>]+)\s*(?P<op>==|!=|=)\s*(?P<value>[^\s,!=()]*)")
_EXISTS = re.compile(r"(?P<no>!?)\s*(?P<key>[^\s!=,()<>]+)")


def labels(text: str | None) -> Predicate:
    """The predicate of a label selector: terms `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`.

    Raises:
        ApiError: 400, the selector can't be parsed.
    """
    terms = [_label_term(term) for term in _split(text or "")]

    def matches(obj: Mapping[str, Any]) -> bool:
        found = obj["metadata"].get("labels") or {}
        return all(term(found) for term in terms)

    return matches


def _split(text: str) -> list[str]:
    """The terms, which are separated by commas outside of parentheses."""
    terms, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            terms.append(text[start:index])
            start = index + 1
    terms.append(text[start:])
    return [term.strip() for term in terms if term.strip()]


def _label_term(term: str) -> Callable[[Mapping[str, str]], bool]:
    if match := _SET.fullmatch(term):
        key, values = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["op"] == "in":
            return lambda found: found.get(key) in values
        return lambda found: found.get(key) not in values
    if match := _EQUAL.fullmatch(term):
        key, value = match["key"], match["value"]
        if match["op"] == "!=":
            return lambda found: found.get(key) != value
        return lambda found: found.get(key) == value
    if match := _EXISTS.fullmatch(term):
        key, absent = match["key"], bool(match["no"])
        return lambda found: (key in found) is not absent
    raise bad_request(f'unable to parse requirement: "{term}" is not a label selector such as "key=value"')


_FIELDS: Mapping[str, frozenset[str]] = {
    "pods": frozenset({"status.phase", "status.podIP", "spec.nodeName", "spec.restartPolicy"}),
    "events": frozenset(
        {
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.fieldPath",
            "reason",
            "type",
            "reportingComponent",
            "source",
        }
    ),
    "namespaces": frozenset({"status.phase"}),
    "secrets": frozenset({"type"}),
}


def fields(text: str | None, plural: str) -> Predicate:
    """The predicate of a field selector (`metadata.name=x,status.phase!=Running`).

    Raises:
        ApiError: 400, the selector can't be parsed, or the kind has no such selectable field.
    """
    known = _FIELDS.get(plural, frozenset()) | {"metadata.name", "metadata.namespace"}
    terms: list[tuple[list[str], bool, str]] = []
    for term in _split(text or ""):
        match = _EQUAL.fullmatch(term)
        if match is None:
            raise bad_request(f'invalid selector: "{term}"; can\'t understand it')
        if match["key"] not in known:
            raise bad_request(f"field label not supported: {match['key']}")
        terms.append((match["key"].split("."), match["op"] != "!=", match["value"]))

    def matches(obj: Mapping[str, Any]) -> bool:
        for path, equal, value in terms:
            found: Any = obj
            for key in path:
                found = found.get(key) if isinstance(found, Mapping) else None
            if isinstance(found, Mapping):  # `source` of an Event selects by its component
                found = found.get("component")
            if (str(found if found is not None else "") == value) is not equal:
                return False
        return True

    return matches
