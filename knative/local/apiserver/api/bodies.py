"""Request bodies: read within limits of size and time, and parsed within limits of depth and number.

Every limit is applied before the work that it bounds, and what could take longer than a few milliseconds is
parsed on a thread, because the event loop also carries the requests of functions.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import Any

import yaml
from starlette.requests import Request

from knative.client.resources import Object
from knative.local.apiserver.api import protobuf
from knative.local.apiserver.api.bounds import (
    MAX_DEPTH,
    MAX_MANAGED_VALUES,
    MAX_VALUES,
    check_bounds,
    too_large,
)
from knative.local.apiserver.errors import ApiError, bad_request
from knative.local.apiserver.validation import FieldValidation

MAX_BYTES = 3 * 1024 * 1024
"""As in Kubernetes' API server."""
MAX_YAML_BYTES = 256 * 1024
"""YAML takes some forty times as long as JSON, which is all that `kubectl` and the client libraries send."""
READ_TIMEOUT_S = 30.0
"""Default of the time in which a whole body has to come."""

_ON_LOOP_BYTES = 16 * 1024
_MAX_NUMBER = 1024
"""Characters of a plain YAML scalar that begins like a number."""
_YAML_TYPES = frozenset({"application/yaml", "application/apply-patch+yaml", "application/x-yaml"})
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Parsed:
    """The value of a body, and the fields that it has twice."""

    value: Any
    duplicates: tuple[str, ...] = ()

    def warnings(self, validation: FieldValidation) -> list[str]:
        """Warnings of the duplicate fields, as field validation asks for them.

        Raises:
            ApiError: 400, there are some and validation is strict.
        """
        found = [f'duplicate field "{name}"' for name in self.duplicates]
        if found and validation == "Strict":
            raise bad_request(f"strict decoding error: {', '.join(found)}")
        return found if validation == "Warn" else []


def media_type(request: Request) -> str:
    """The media type of the body without its parameters; JSON if the request names none, as in Kubernetes."""
    return request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()


async def read(request: Request, timeout_s: float = READ_TIMEOUT_S) -> bytes:
    """The body.

    Raises:
        ApiError: 413, it is larger than `MAX_BYTES`; 408, it did not come in time.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > len(str(MAX_BYTES)) or int(declared) > MAX_BYTES):
        raise too_large(f"the request body is larger than {MAX_BYTES} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BYTES:
                    raise too_large(f"the request body is larger than {MAX_BYTES} bytes")
                chunks.append(chunk)
    except TimeoutError as problem:
        text = f"the request body was not complete within {timeout_s:g} s"
        raise ApiError(408, "Timeout", text) from problem
    return b"".join(chunks)


async def parse(data: bytes, kind: str) -> Parsed:
    """The JSON, YAML or protobuf value of a body of media type `kind`.

    Raises:
        ApiError: 400, it can't be read; 413, it goes beyond a limit; 415, it is of another type.
    """
    if len(data) <= _ON_LOOP_BYTES and (kind not in _YAML_TYPES or _looks_like_json(data)):
        return _parse(data, kind)
    return await asyncio.to_thread(_parse, data, kind)


def mapping(value: Any) -> Object:
    """`value`, which must be an object; missing metadata is added.

    Raises:
        ApiError: 400, it is no object, or its metadata is none.
    """
    if not isinstance(value, dict):
        raise bad_request("the object provided is unrecognized: it must be a JSON object")
    if value.get("metadata") is None:
        value["metadata"] = {}
    if not isinstance(value["metadata"], dict):
        raise bad_request("the object provided is unrecognized: metadata must be an object")
    return value


def _looks_like_json(data: bytes) -> bool:
    return data.lstrip()[:1] in (b"{", b"[")


def _parse(data: bytes, kind: str) -> Parsed:
    try:
        if kind in _YAML_TYPES:
            parsed = _parse_yaml(data)
        elif kind == protobuf.MEDIA_TYPE:
            parsed = Parsed(protobuf.read(data))
        elif kind == "application/json" or kind.endswith("+json"):
            parsed = _parse_json(data)
        else:
            raise ApiError(
                415,
                "UnsupportedMediaType",
                f'the body of the request was in an unknown format: "{kind}"; '
                "application/json and application/yaml are accepted",
            )
        check_bounds(parsed.value)
    except RecursionError as problem:
        raise too_large(f"the object is nested more than {MAX_DEPTH} levels deep") from problem
    except (ValueError, yaml.YAMLError) as problem:
        raise bad_request(f"the object provided is unrecognized: {problem}") from problem
    return parsed


def _parse_json(data: bytes) -> Parsed:
    duplicates: list[str] = []

    def from_pairs(pairs: list[tuple[str, Any]]) -> Object:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            duplicates.extend(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return found

    value = json.loads(data, object_pairs_hook=from_pairs, parse_constant=_refuse_constant)
    return Parsed(value, tuple(duplicates))


def _refuse_constant(name: str) -> float:
    """`NaN` and `Infinity`, which Python's parser takes and JSON does not have."""
    raise ValueError(f"{name} is not a JSON value")


def _parse_yaml(data: bytes) -> Parsed:
    """YAML as far as JSON can say it; clients that apply on the server send JSON, which YAML includes."""
    if _looks_like_json(data):
        try:
            return _parse_json(data)
        except ValueError:
            pass  # YAML's own flow style
    if len(data) > MAX_YAML_BYTES:
        raise too_large(f"a body in YAML is larger than {MAX_YAML_BYTES} bytes; send it as JSON")
    _check_events(data)
    return Parsed(_json_value(yaml.load(data, Loader=_YAML_LOADER)))  # noqa: S506  # a safe loader


def _check_events(data: bytes) -> None:
    """Apply the limits to YAML before values are made of it.

    Aliases and merge keys let a few bytes stand for gigabytes, and libyaml composes nested nodes by recursion
    without a limit of its own.
    """
    depth = values = 0
    for event in yaml.parse(data, Loader=_YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise bad_request("the object provided is unrecognized: YAML aliases are not accepted")
        if isinstance(event, yaml.ScalarEvent) and not event.style and _is_long_number(event.value):
            raise bad_request("the object provided is unrecognized: a number is too long")
        if isinstance(event, yaml.NodeEvent):
            values += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise too_large(f"the object is nested more than {MAX_DEPTH} levels deep")
        if values > 2 * (MAX_VALUES + MAX_MANAGED_VALUES):  # keys are nodes as well; `check_bounds` is exact
            raise too_large(f"the object has more than {MAX_VALUES} fields and list items")


def _is_long_number(text: str) -> bool:
    """Whether text might be read as a number (YAML has them to the base of 60) in more than linear time."""
    return len(text) > _MAX_NUMBER and text[0] in "+-.0123456789"


def _json_value(value: Any) -> Any:
    """A YAML value with its dates and keys as JSON would have them: as text."""
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON value")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)
