"""The patch formats: JSON patch (RFC 6902), merge patch (RFC 7396) and strategic merge patch (pure).

`kubectl apply` sends strategic merge patches for the built-in kinds. Of those that are served here only the
list of finalizers is merged by its items; every other list is replaced, and directives that would order list
items or delete by key are refused rather than ignored.
"""

from __future__ import annotations

from typing import Any

import jsonpatch
import jsonpointer

from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver.api.bounds import check_bounds
from knative.local.apiserver.errors import ApiError, bad_request

_DELETE_FINALIZERS = "$deleteFromPrimitiveList/finalizers"
_NO_EFFECT = ("$setElementOrder/", "$retainKeys")
"""Directives on order and on keys of unions: without meaning for the kinds that are served."""


def json_patch(obj: Object, operations: Any) -> Object:
    """`obj` after the operations of a JSON patch.

    Raises:
        ApiError: 400, they are malformed; 413, copies make the object too large; 422, they don't fit it.
    """
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    patched: Any = objects.clone(obj)
    try:
        for operation in jsonpatch.JsonPatch(operations).patch:
            patched = jsonpatch.apply_patch(patched, [operation], in_place=True)
            if operation.get("op") == "copy":  # each may double the object
                check_bounds(patched)
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
    """`obj` after a strategic merge patch, as far as the built-in kinds here need one.

    Raises:
        ApiError: 400, it holds a directive that is not supported.
    """
    if not isinstance(patch, dict):
        return objects.clone(patch)
    if patch.get("$patch") == "replace":
        return {key: objects.clone(value) for key, value in patch.items() if key != "$patch"}
    merged = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if key == _DELETE_FINALIZERS:
            merged["finalizers"] = [item for item in merged.get("finalizers") or [] if item not in value]
        elif key.startswith(_NO_EFFECT):
            continue
        elif key.startswith("$"):
            raise bad_request(f"the strategic merge patch has {key}, which this platform does not support")
        elif value is None:
            merged.pop(key, None)
        elif key == "finalizers" and isinstance(value, list):
            present = merged.get(key) or []
            merged[key] = present + [item for item in value if item not in present]
        else:
            merged[key] = strategic_patch(merged.get(key), value)
    return merged
