"""The Table that `kubectl get` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from knative.cluster import Object
from knative.local import objects
from knative.local.api.jsonpath import compiled
from knative.local.kinds import Column, KindInfo
from knative.local.store import Record

_NAME = Column("Name", "string", ".metadata.name")
_AGE = Column("Age", "date", ".metadata.creationTimestamp")


def wanted(accept: str) -> str | None:
    """The meta API version of the Table that an Accept header asks for first, or None."""
    for item in accept.split(","):
        words = {word.strip() for word in item.split(";")}
        if "as=Table" in words and words & {"application/json", "*/*"}:
            return next((word[2:] for word in words if word in ("v=v1", "v=v1beta1")), "v1")
        if words & {"application/json", "*/*"}:
            return None
    return None


def columns(info: KindInfo) -> list[Column]:
    """Name, the kind's own, and age, which every kind without columns of its own ends with."""
    own = list(info.columns)
    if not own:
        own = [_AGE]
    return [_NAME, *own]


def table(
    info: KindInfo, records: Iterable[Record], now: datetime, *, include: str, version: str, metadata: Object
) -> Object:
    """The Table of these objects; `include` is the query parameter includeObject."""
    shown = columns(info)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": "string" if column.type == "date" else column.type,
                "format": "name" if column is _NAME else "",
                "description": column.description,
                "priority": column.priority,
            }
            for column in shown
        ],
        "rows": [
            {
                "cells": [_cell(column, record.obj, now) for column in shown],
                "object": _object(record, include, version),
            }
            for record in records
        ],
    }


def _object(record: Record, include: str, version: str) -> Any:
    if include == "None":
        return None
    if include == "Object":
        return record.obj
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": record.obj["metadata"],
    }


def _cell(column: Column, obj: Object, now: datetime) -> Any:
    value = column.compute(obj) if column.compute is not None else compiled(column.path)(obj)
    if value is None:
        return None if column.type != "date" else "<unknown>"
    if column.type == "date":
        return age((now - objects.parse_timestamp(str(value))).total_seconds())
    if column.type == "string" and not isinstance(value, str):
        return json.dumps(value)
    return value


def age(seconds: float) -> str:  # noqa: PLR0911  # one for each magnitude
    """A duration in the two largest units that matter, as kubectl prints ages."""
    seconds = int(seconds)
    if seconds < 0:
        return "0s"
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    years = days // 365
    return f"{years}y{days % 365}d" if years < 8 and days % 365 else f"{years}y"
