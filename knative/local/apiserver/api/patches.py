"""The patch formats: JSON patch (RFC 6902), merge patch (RFC 7396), and the strategic one.

A strategic patch is what `kubectl` sends for kinds that are compiled into it. Those that are served here
(Namespace, ConfigMap, Secret, Event, Pod, Lease) have only maps to merge, besides owner references,
finalizers and conditions, which are merged by their keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonpatch
import jsonpointer

from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.errors import ApiError, bad_request

_MERGE_KEYS = {"ownerReferences": "uid", "conditions": "type", "containers": "name", "env": "name"}


def json_patch(obj: Object, operations: Any) -> Object:
    """`obj` after the operations of a JSON patch.

    Raises:
        ApiError: 400, they are malformed; 422, they don't fit the object.
    """
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    try:
        patched = jsonpatch.apply_patch(objects.clone(obj), operations)
    except jsonpatch.InvalidJsonPatch as problem:
        raise bad_request(f"the JSON patch is malformed: {problem}") from problem
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as problem:
        message = f"the server rejected our request due to an error in our request: {problem}"
        raise ApiError(422, "Invalid", message) from problem
    if not isinstance(patched, dict):
        raise bad_request("the JSON patch leaves no object")
    return patched


def merge_patch(obj: Any, patch: Any) -> Any:
    """`obj` after a merge patch: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return objects.clone(patch)
    merged = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_patch(obj: Any, patch: Any) -> Any:
    """`obj` after a strategic merge patch."""
    if not isinstance(patch, dict):
        return objects.clone(patch)
    if patch.get("$patch") == "replace":
        return {key: objects.clone(value) for key, value in patch.items() if key != "$patch"}
    merged = dict(obj) if isinstance(obj, dict) else {}
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        merged = {key: value for key, value in merged.items() if key in retained}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [item for item in merged.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue  # the order of list items has no meaning here
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, list):
            merged[key] = _merge_list(key, merged.get(key) or [], value)
        else:
            merged[key] = strategic_patch(merged.get(key), value)
    return merged


def _merge_list(name: str, items: list[Any], patch: list[Any]) -> list[Any]:
    if name == "finalizers":
        return items + [item for item in patch if item not in items]
    key = _MERGE_KEYS.get(name)
    if key is None:
        return [objects.clone(item) for item in patch]
    merged = list(items)
    for item in patch:
        if not isinstance(item, Mapping):
            continue
        if item.get("$patch") == "replace":
            return [objects.clone(other) for other in patch if "$patch" not in other]
        index = next((at for at, other in enumerate(merged) if other.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if index is not None:
                del merged[index]
        elif index is None:
            merged.append(objects.clone(item))
        else:
            merged[index] = strategic_patch(merged[index], item)
    return merged
