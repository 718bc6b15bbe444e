"""What a request asks for: verb, kind, object and options, from path, query, headers and body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from starlette.requests import Request
from starlette.responses import Response

from knative.client.resources import Object, Resource
from knative.local.apiserver.api import protobuf
from knative.local.apiserver.errors import ApiError, ResourceRef, bad_request
from knative.local.apiserver.kinds import KindInfo
from knative.local.apiserver.registry import Validation, WriteOptions
from knative.local.apiserver.store import Key

MAX_BODY = 3 * 1024 * 1024  # the API server's own limit

_YAML = frozenset({"application/yaml", "application/apply-patch+yaml", "application/x-yaml"})


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """The collection or object that a path names."""

    info: KindInfo
    namespace: str | None
    """None: all namespaces (or a cluster-wide kind)."""
    name: str | None
    subresource: str | None

    @property
    def key(self) -> Key:
        """Where the store keeps it."""
        return Key(self.info.resource, self.namespace or "", self.name or "")

    @property
    def subject(self) -> ResourceRef:
        """How errors name it."""
        res = self.info.resource
        return ResourceRef(res.group, res.plural, self.name or "", res.kind)


def target(  # noqa: PLR0911  # one for each form of path
    path: str, kinds: Mapping[Resource, KindInfo]
) -> RequestInfo | None:
    """What `path` names, or None if there is no such kind."""
    parts = [part for part in path.split("/") if part]
    match parts:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    by_plural = {
        resource.plural: info
        for resource, info in kinds.items()
        if (resource.group, resource.version) == (group, version)
    }
    namespace: str | None
    match rest:
        case ["namespaces", namespace, plural, *more] if plural in by_plural:
            info = by_plural[plural]
            if not info.resource.namespaced:
                return None
        case [plural, *more] if plural in by_plural:
            info, namespace = by_plural[plural], None
            if more and info.resource.namespaced:
                return None
        case _:
            return None
    match more:
        case []:
            return RequestInfo(info, namespace, None, None)
        case [name]:
            return RequestInfo(info, namespace, name, None)
        case [name, subresource]:
            return RequestInfo(info, namespace, name, subresource)
    return None


async def body(request: Request) -> bytes:
    """The body.

    Raises:
        ApiError: 413, it is larger than an object may be.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise ApiError(413, "RequestEntityTooLarge", f"the request body is larger than {MAX_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def content_type(request: Request) -> str:
    """The media type of the body, without parameters."""
    return request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()


def parse(data: bytes, media_type: str, validation: Validation) -> tuple[Any, list[str]]:
    """The JSON or YAML value of a body, and warnings (duplicate fields).

    Raises:
        ApiError: 400, it can't be read, or has a field twice and validation is strict; 415, another type.
    """
    duplicates: list[str] = []
    try:
        if media_type in _YAML:
            value = _json_like(yaml.safe_load(data))
        elif media_type == protobuf.MEDIA_TYPE:
            value = protobuf.read(data)
        elif media_type.endswith("json"):
            value = json.loads(data, object_pairs_hook=lambda pairs: _object(pairs, duplicates))
        else:
            raise ApiError(
                415,
                "UnsupportedMediaType",
                f'the body of the request was in an unknown format: "{media_type}"; JSON and YAML are known',
            )
    except (ValueError, yaml.YAMLError) as problem:
        raise bad_request(f"the object provided is unrecognized: {problem}") from problem
    if duplicates and validation == "Strict":
        listed = ", ".join(f'duplicate field "{name}"' for name in duplicates)
        raise bad_request(f"strict decoding error: {listed}")
    return value, [f'duplicate field "{name}"' for name in duplicates] if validation == "Warn" else []


def _object(pairs: list[tuple[str, Any]], duplicates: list[str]) -> Object:
    found: Object = {}
    for key, value in pairs:
        if key in found:
            duplicates.append(key)
        found[key] = value
    return found


def _json_like(value: Any) -> Any:
    """YAML's dates and non-text keys as JSON would have them."""
    if isinstance(value, dict):
        return {str(key): _json_like(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_like(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)


def mapping(value: Any) -> Object:
    """`value` if it is an object with a metadata object or none.

    Raises:
        ApiError: 400, it is something else.
    """
    if not isinstance(value, dict):
        raise bad_request("the object provided is unrecognized: it must be a JSON object")
    if value.get("metadata") is None:
        value["metadata"] = {}
    if not isinstance(value["metadata"], dict):
        raise bad_request("the object provided is unrecognized: metadata must be an object")
    return value


def options(request: Request, operation: Literal["Apply", "Update"] = "Update") -> WriteOptions:
    """How a write is to be done.

    Raises:
        ApiError: 400, an option has a value that doesn't exist.
    """
    query = request.query_params
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise bad_request(f'fieldValidation: Unsupported value: "{validation}": "Ignore", "Strict", "Warn"')
    dry_run = query.getlist("dryRun")
    if any(value not in ("", "All") for value in dry_run):
        raise bad_request(f'dryRun: Unsupported value: "{dry_run[-1]}": supported values: "All"')
    agent = request.headers.get("user-agent", "unknown").partition("/")[0] or "unknown"
    manager = query.get("fieldManager") or agent[:128]
    if operation == "Apply" and not query.get("fieldManager"):
        raise bad_request("fieldManager: Required value: is required for apply patch")
    return WriteOptions(
        manager=manager,
        operation=operation,
        dry_run=bool([value for value in dry_run if value]),
        validation=validation,  # type: ignore[arg-type]  # checked above
    )


def answer(content: Object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(json.dumps(content, separators=(",", ":")), status, media_type="application/json")


_MOST_DIGITS = 19
"""Of a number that clients send: 64 bits."""


def number(request: Request, name: str) -> int | None:
    """A whole number of the query, or None.

    Raises:
        ApiError: 400, it is something else.
    """
    text = request.query_params.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS:
        raise bad_request(f"{name}: Invalid value: {text!r}: must be a whole number")
    return int(text)


def flag(request: Request, name: str) -> bool:
    """Whether a query parameter is set to something true."""
    return request.query_params.get(name, "").lower() in ("1", "true")
