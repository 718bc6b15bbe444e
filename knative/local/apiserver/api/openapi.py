"""The OpenAPI documents: what `kubectl explain` shows and what clients validate against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from knative.client.resources import Object, Resource
from knative.local.apiserver.api.discovery import Kinds


def index(kinds: Kinds) -> Object:
    """`/openapi/v3`."""
    paths = {_openapi_path(resource) for resource in kinds}
    return {
        "paths": {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest(document(kinds, path))}"}
            for path in sorted(paths)
        }
    }


def digest(content: Object | None) -> str:
    """The word by which the address of a document in the index names its content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _openapi_path(resource: Resource) -> str:
    return f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"


def _definition_name(resource: Resource) -> str:
    parts = list(reversed(resource.group.split("."))) if resource.group else ["io", "k8s", "api", "core"]
    return ".".join([*parts, resource.version, resource.kind])


def _gvk(resource: Resource) -> Object:
    return {"group": resource.group, "kind": resource.kind, "version": resource.version}


def _write_parameters() -> list[Object]:
    return [
        {"name": name, "in": "query", "description": about, "schema": {"type": "string"}}
        for name, about in (
            ("dryRun", "All: answer as if, but store nothing."),
            ("fieldManager", "Who makes the change."),
            ("fieldValidation", "Ignore, Warn or Strict: what happens to unknown and duplicate fields."),
        )
    ]


def document(kinds: Kinds, path: str) -> Object | None:
    """`/openapi/v3/PATH`, or None if there is none."""
    infos = [info for resource, info in kinds.items() if _openapi_path(resource) == path]
    if not infos:
        return None
    schemas: Object = {}
    paths: Object = {}
    for info in infos:
        res, name = info.resource, _definition_name(info.resource)
        schemas[name] = {**info.schema, "x-kubernetes-group-version-kind": [_gvk(res)]}
        reference = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        content = {"application/json": reference}
        answer = {"200": {"description": "OK", "content": content}}
        base = f"/{path}/namespaces/{{namespace}}/{res.plural}" if res.namespaced else f"/{path}/{res.plural}"

        body: Object = {"requestBody": {"content": {"*/*": reference}}, "parameters": _write_parameters()}
        paths[base] = {
            "get": _operation("list", res, answer),
            "post": _operation("post", res, answer, **body),
        }
        paths[f"{base}/{{name}}"] = {
            "get": _operation("get", res, answer),
            "put": _operation("put", res, answer, **body),
            "patch": _operation(
                "patch",
                res,
                answer,
                parameters=[
                    *_write_parameters(),
                    {"name": "force", "in": "query", "schema": {"type": "boolean"}},
                ],
                requestBody={
                    "content": {
                        kind: {"schema": {"type": "object"}}
                        for kind in (
                            "application/json-patch+json",
                            "application/merge-patch+json",
                            "application/apply-patch+yaml",
                        )
                    }
                },
            ),
            "delete": _operation("delete", res, answer),
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Pilotlight local platform", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(action: str, res: Resource, answer: Object, **more: Any) -> Object:
    return {
        "operationId": f"{action}{res.kind}",
        "responses": answer,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(res),
        **more,
    }


def v2(kinds: Kinds) -> Object:
    """`/openapi/v2`, for older clients: the definitions only."""
    return {
        "swagger": "2.0",
        "info": {"title": "Pilotlight local platform", "version": "v1"},
        "paths": {},
        "definitions": {
            _definition_name(resource): {
                **_v2(info.schema),
                "x-kubernetes-group-version-kind": [_gvk(resource)],
            }
            for resource, info in kinds.items()
        },
    }


def _v2(schema: Any) -> Any:
    """Without what OpenAPI 2 doesn't know."""
    if isinstance(schema, Mapping):
        return {
            key: _v2(value)
            for key, value in schema.items()
            if key not in ("anyOf", "oneOf", "nullable", "default")
        }
    if isinstance(schema, list):
        return [_v2(item) for item in schema]
    return schema
