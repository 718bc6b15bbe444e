"""Writes knative/manifests/crds/trigger.yaml from the models in triggers/spec: python scripts/trigger_crd.py.

A test compares the file with what this writes, so that the schema and the models cannot differ.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from triggers.spec.brokers import QueueRef
from triggers.spec.field_types import PATTERN_OF_DURATION
from triggers.spec.filters import Filter
from triggers.spec.trigger import API_VERSION, KIND, Target, TargetAuth, TriggerSpec

FILE: Final = Path(__file__).parents[1] / "knative" / "manifests" / "crds" / "trigger.yaml"
_HEAD: Final = """\
# The Trigger kind; written by scripts/trigger_crd.py from the models in triggers/spec.
"""
_LIMITS: Final = {
    "pattern": "pattern", "max_length": "maxLength", "min_length": "minLength",
    "ge": "minimum", "le": "maximum",
}  # fmt: skip
_SCALARS: Final = {str: "string", bool: "boolean", int: "integer", float: "number"}
_COLUMNS: Final = (
    {"name": "Source", "type": "string", "jsonPath": ".status.source"},
    {"name": "Target", "type": "string", "jsonPath": ".status.target"},
    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"},
    {"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].reason"},
    {"name": "Backlog", "type": "integer", "jsonPath": ".status.backlog"},
    {"name": "In flight", "type": "integer", "jsonPath": ".status.inFlight"},
    {"name": "Delivered", "type": "integer", "jsonPath": ".status.delivered"},
    {"name": "Dead", "type": "integer", "jsonPath": ".status.deadLettered"},
    {"name": "Paused", "type": "boolean", "jsonPath": ".spec.paused"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
)
_CONDITION: Final = {
    "type": "object",
    "required": ["type", "status", "lastTransitionTime", "reason"],
    "properties": {
        "type": {"type": "string"},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "observedGeneration": {"type": "integer", "format": "int64"},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "reason": {"type": "string"},
        "message": {"type": "string"},
    },
}
_STATUS: Final = {
    "type": "object",
    "properties": {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "source": {"type": "string", "description": "The queue's kind and name."},
        "target": {"type": "string", "description": "The Service or URL, and the path."},
        "backlog": {"type": "integer", "description": "Messages that wait, as far as the broker says."},
        "oldestMessageAge": {"type": "string", "description": "Of the oldest message that waits."},
        "inFlight": {"type": "integer", "description": "Requests under way."},
        "concurrency": {"type": "integer", "description": "Requests that may be under way now."},
        "delivered": {
            "type": "integer",
            "format": "int64",
            "description": "Messages since the dispatcher started.",
        },
        "retried": {
            "type": "integer",
            "format": "int64",
            "description": "Attempts that failed and are repeated.",
        },
        "deadLettered": {"type": "integer", "format": "int64"},
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": _CONDITION,
        },
    },
}


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    spec = _model(TriggerSpec)
    spec["x-kubernetes-validations"] = [
        {
            "rule": "!has(self.reply) || !has(self.batch) || !has(self.batch.size) || self.batch.size == 1",
            "message": "a reply needs batch.size = 1",
        }
    ]
    group, version = API_VERSION.split("/")
    schema = {
        "type": "object",
        "description": "Posts the messages of a queue to a function, as CloudEvents.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _STATUS,
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"triggers.{group}",
            "labels": {
                "app.kubernetes.io/name": "pilotlight",
                "app.kubernetes.io/component": "trigger-dispatcher",
            },
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": "triggers",
                "singular": "trigger",
                "shortNames": ["ptr"],
                "categories": ["all", "pilotlight"],
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(_COLUMNS),
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _model(model: type[BaseModel]) -> dict[str, Any]:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    required = [name for name, field in fields.items() if field.is_required()]
    schema: dict[str, Any] = {"type": "object"}
    if required:
        schema["required"] = required
    schema["properties"] = {name: _field(field) for name, field in fields.items()}
    if model is QueueRef:
        schema["x-kubernetes-validations"] = [_exactly_one(list(fields))]
    elif model is TargetAuth:
        schema["x-kubernetes-validations"] = [_exactly_one(["stageToken", "bearer"])]
    elif model is Target:
        schema["x-kubernetes-validations"] = [_exactly_one(["service", "url"])]
    return schema


def _exactly_one(names: list[str]) -> dict[str, str]:
    counted = " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names)
    return {"rule": f"{counted} == 1", "message": f"must have exactly one of {', '.join(names)}"}


def _field(field: FieldInfo) -> dict[str, Any]:
    kind, metadata = _stripped(field.annotation, list(field.metadata))
    schema = _kind(kind, metadata)
    if field.description and "description" not in schema:
        schema = {**schema, "description": " ".join(field.description.split())}
    return schema


def _kind(kind: Any, metadata: list[Any]) -> dict[str, Any]:
    limits = {
        name: getattr(entry, attribute)
        for entry in metadata
        for attribute, name in _LIMITS.items()
        if getattr(entry, attribute, None) is not None
    }
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Filter:
        return _filter(0)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _model(kind)
    if origin is typing.Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is tuple:
        inner, inner_metadata = _stripped(arguments[0], [])
        items = {name.replace("Length", "Items"): value for name, value in limits.items()}
        return {"type": "array", **items, "items": _kind(inner, inner_metadata)}
    if _is_duration(metadata):
        return {"type": "string", "maxLength": 32, "pattern": PATTERN_OF_DURATION}
    schema: dict[str, Any] = {"type": _SCALARS[kind], **limits}
    if kind is str:
        schema.setdefault("maxLength", 1024)
    return schema


def _filter(depth: int) -> dict[str, Any]:
    """Two levels; a schema of the API cannot contain itself, so deeper ones are checked on admission."""
    texts = {
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": 1024},
        "maxProperties": 32,
    }
    properties: dict[str, Any] = {name: dict(texts) for name in ("exact", "prefix", "suffix")}
    inner = {"type": "object", "x-kubernetes-preserve-unknown-fields": True} if depth else _filter(depth + 1)
    for name in ("all", "any"):
        properties[name] = {"type": "array", "maxItems": 32, "items": inner}
    properties["not"] = inner
    return {"type": "object", "properties": properties}


def _stripped(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """The type without None and Annotated, and all that Annotated says of it."""
    origin = typing.get_origin(annotation)
    if origin in {types.UnionType, typing.Union}:
        [kind] = [one for one in typing.get_args(annotation) if one is not type(None)]
        return _stripped(kind, metadata)
    if origin is typing.Annotated:
        kind, *more = typing.get_args(annotation)
        return _stripped(kind, [*metadata, *_flat(more)])
    return annotation, list(_flat(metadata))


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for entry in metadata:
        yield from entry.metadata if isinstance(entry, FieldInfo) else [entry]


def _is_duration(metadata: list[Any]) -> bool:
    return any("_seconds" in getattr(getattr(entry, "func", None), "__name__", "") for entry in metadata)


class _Dumper(yaml.SafeDumper):
    """Without anchors: each place has its own copy."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return True


def text() -> str:
    """The file's content."""
    body = yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)
    return _HEAD + re.sub(r"[ \t]+$", "", body, flags=re.MULTILINE)


if __name__ == "__main__":
    FILE.write_text(text())
    sys.stdout.write(f"{FILE}\n")
