"""The subset of Kubernetes' JSONPath that printer columns use (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

_STEP = re.compile(
    r"\.(?P<field>[A-Za-z0-9_-]+)"
    r"|\['(?P<quoted>(?:[^'\\]|\\.)+)'\]"
    r"|\[(?P<index>\d+)\]"
    r"""|\[\?\(@\.(?P<key>[A-Za-z0-9_.-]+)\s*==\s*(?P<quote>['"])(?P<value>[^'"]*)(?P=quote)\)\]"""
)


@lru_cache(maxsize=256)
def compiled(path: str) -> Callable[[Any], Any]:
    """A function from an object to the value at `path`, or None if there is none.

    Raises:
        ValueError: the path uses more than the subset.
    """
    steps: list[Callable[[Any], Any]] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise ValueError(f"JSONPath {path!r} is not understood from {path[position:]!r} on")
        steps.append(_step(match))
        position = match.end()

    def find(obj: Any) -> Any:
        for step in steps:
            obj = step(obj)
            if obj is None:
                return None
        return obj

    return find


def _step(match: re.Match[str]) -> Callable[[Any], Any]:
    if match["index"] is not None:
        at = int(match["index"])
        return lambda obj: obj[at] if isinstance(obj, list) and at < len(obj) else None
    if match["key"] is not None:
        key, value = match["key"], match["value"]
        return lambda obj: (
            next((item for item in obj if isinstance(item, Mapping) and str(item.get(key)) == value), None)
            if isinstance(obj, list)
            else None
        )
    name = match["field"] or re.sub(r"\\(.)", r"\1", match["quoted"])
    return lambda obj: obj.get(name) if isinstance(obj, Mapping) else None
