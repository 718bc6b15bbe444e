"""Limits on the number and the depth of an object's parts, applied before anything is done with it (pure)."""

from __future__ import annotations

from typing import Any

from knative.local.apiserver.errors import ApiError

MAX_VALUES = 5_000
"""Fields and list items of one object. Validation and field management take some 20 microseconds for each on
the event loop, and a large Service has a few hundred."""
MAX_MANAGED_VALUES = 20_000
"""Entries of `metadata.managedFields`, of all managers together."""
MAX_DEPTH = 100
"""Levels of nesting."""


def check_bounds(value: Any) -> None:
    """Refuse a JSON value that is nested too deeply or has too many parts.

    `metadata.managedFields`, which the server writes about all other fields, is counted apart.

    Raises:
        ApiError: 413.
    """
    meta = value.get("metadata") if isinstance(value, dict) else None
    if isinstance(meta, dict) and "managedFields" in meta:
        _check(meta["managedFields"], MAX_MANAGED_VALUES, "managed fields")
        value = {**value, "metadata": {key: item for key, item in meta.items() if key != "managedFields"}}
    _check(value, MAX_VALUES, "fields and list items")


def _check(value: Any, limit: int, what: str) -> None:
    count = 0
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            if count + len(inner) > limit:
                raise too_large(f"the object has more than {limit} {what}")
        if not inner:
            return
        count += len(inner)
        level = inner
    raise too_large(f"the object is nested more than {MAX_DEPTH} levels deep")


def too_large(message: str) -> ApiError:
    """413 for a body or an object beyond a limit."""
    return ApiError(413, "RequestEntityTooLarge", message)
