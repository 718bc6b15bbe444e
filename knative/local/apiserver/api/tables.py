"""The Table of `meta.k8s.io/v1` that `kubectl get` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.api.jsonpath import compiled
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.printer_columns import AGE, NAME, Column
from knative.local.apiserver.records import Record


def table(
    info: KindInfo, records: Iterable[Record], now: datetime, *, include: str, metadata: Object
) -> Object:
    """The Table of these objects; `include` is the query parameter `includeObject`."""
    columns = list(info.columns) or [AGE]
    if info.name_column:
        columns.insert(0, NAME)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": "string" if column.type == "date" else column.type,
                "format": "name" if column is NAME else "",
                "description": column.description,
                "priority": column.priority,
            }
            for column in columns
        ],
        "rows": [
            {
                "cells": [_cell(column, record.obj, now) for column in columns],
                "object": _row_object(record, include),
            }
            for record in records
        ],
    }


def _row_object(record: Record, include: str) -> Any:
    """What a row carries of its object: nothing, all, or (the default) the metadata."""
    if include == "None":
        return None
    if include == "Object":
        return record.obj
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": record.obj["metadata"],
    }


def _cell(column: Column, obj: Object, now: datetime) -> Any:
    value = column.compute(obj, now) if column.compute is not None else compiled(column.path)(obj)
    if value is None:
        return column.empty if column.type != "date" else "<unknown>"
    if column.type == "date":
        return objects.age((now - objects.parse_timestamp(str(value))).total_seconds())
    if column.type == "string" and not isinstance(value, str):
        return json.dumps(value)
    return value
