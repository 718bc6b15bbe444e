"""The Table that `kubectl get` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.api.jsonpath import compiled
from knative.local.apiserver.api.representations import partial
from knative.local.apiserver.kinds import Column, KindInfo
from knative.local.apiserver.store import Record

_NAME = Column("Name", "string", ".metadata.name")
_AGE = Column("Age", "date", ".metadata.creationTimestamp")


def columns(info: KindInfo) -> list[Column]:
    """Name, the kind's own, and age, which every kind without columns of its own ends with."""
    own = list(info.columns)
    if not own:
        own = [_AGE]
    return [_NAME, *own] if info.names_first else own


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
                "format": "name" if column.name == "Name" else "",
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
    return partial(record, version)


def _cell(column: Column, obj: Object, now: datetime) -> Any:
    value = column.compute(obj, now) if column.compute is not None else compiled(column.path)(obj)
    if value is None:
        return column.empty if column.type != "date" else "<unknown>"
    if column.type == "date":
        return objects.age((now - objects.parse_timestamp(str(value))).total_seconds())
    if column.type == "string" and not isinstance(value, str):
        return json.dumps(value)
    return value
