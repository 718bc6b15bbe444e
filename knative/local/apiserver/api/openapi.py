"""OpenAPI documents, which `kubectl explain` shows and `kubectl apply` consults on validation (pure)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from knative.client.resources import Object, Resource
from knative.local.apiserver.api.discovery import Kinds

V2_MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
V2_DOCUMENT = b"\x0a\x032.0"
"""An OpenAPI v2 document in protobuf with no definitions (`swagger: "2.0"`).

kubectl 1.27 and later reads it for a kind whose group has no v3 document, finds that the kind is unknown,
and goes on to say `no matches for kind`.
"""

_PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
)


def index(kinds: Kinds) -> Object:
    """`/openapi/v3`: the address of each group's document, with a digest of its content."""
    paths = sorted({_group_path(resource) for resource in kinds})
    return {
        "paths": {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={_digest(document(kinds, path))}"}
            for path in paths
        }
    }


def document(kinds: Kinds, path: str) -> Object | None:
    """`/openapi/v3/PATH`, or None if there is none."""
    infos = [info for resource, info in kinds.items() if _group_path(resource) == path]
    if not infos:
        return None
    schemas: Object = {}
    paths: Object = {}
    for info in infos:
        res, name = info.resource, _definition_name(info.resource)
        schemas[name] = {**info.schema, "x-kubernetes-group-version-kind": [_gvk(res)]}
        reference = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        answer = {"200": {"description": "OK", "content": {"application/json": reference}}}
        base = f"/{path}/namespaces/{{namespace}}/{res.plural}" if res.namespaced else f"/{path}/{res.plural}"
        body: Object = {"requestBody": {"content": {"*/*": reference}}, "parameters": _write_parameters()}
        force = {"name": "force", "in": "query", "schema": {"type": "boolean"}}
        patch: Object = {
            "requestBody": {"content": {kind: {"schema": {"type": "object"}} for kind in _PATCH_TYPES}},
            "parameters": [*_write_parameters(), force],
        }
        paths[base] = {
            "get": _operation("list", res, answer),
            "post": _operation("post", res, answer, **body),
        }
        paths[f"{base}/{{name}}"] = {
            "get": _operation("get", res, answer),
            "put": _operation("put", res, answer, **body),
            "patch": _operation("patch", res, answer, **patch),
            "delete": _operation("delete", res, answer),
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Pilotlight local platform", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _digest(content: Object | None) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _group_path(resource: Resource) -> str:
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
            ("dryRun", "All: answer as usual, but store nothing."),
            ("fieldManager", "Who makes the change."),
            ("fieldValidation", "Ignore, Warn or Strict: what happens to unknown and duplicate fields."),
        )
    ]


def _operation(action: str, res: Resource, answer: Object, **more: Any) -> Object:
    return {
        "operationId": f"{action}{res.kind}",
        "responses": answer,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(res),
        **more,
    }
