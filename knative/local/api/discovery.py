"""Discovery: which groups, versions, kinds and verbs there are, and the OpenAPI documents behind them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from knative.cluster import Object, Resource
from knative.local.kinds import KindInfo

Kinds = Mapping[Resource, KindInfo]

_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


def _groups(kinds: Kinds) -> dict[str, list[str]]:
    """Versions by group, the core group left out."""
    groups: dict[str, list[str]] = {}
    for resource in kinds:
        if resource.group and resource.version not in groups.setdefault(resource.group, []):
            groups[resource.group].append(resource.version)
    return groups


def core_versions(address: str) -> Object:
    """`/api`."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(kinds: Kinds) -> Object:
    """`/apis`."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(name, versions) for name, versions in sorted(_groups(kinds).items())],
    }


def group(kinds: Kinds, name: str) -> Object | None:
    """`/apis/NAME`, or None if there is no such group."""
    versions = _groups(kinds).get(name)
    return None if versions is None else {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def _group(name: str, versions: Iterable[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(kinds: Kinds, group_name: str, version: str) -> Object | None:
    """`/api/v1` and `/apis/GROUP/VERSION`, or None if there is none."""
    found = [info for res, info in kinds.items() if (res.group, res.version) == (group_name, version)]
    if not found:
        return None
    resources: list[Object] = []
    for info in found:
        res = info.resource
        entry: Object = {
            "name": res.plural,
            "singularName": info.singular,
            "namespaced": res.namespaced,
            "kind": res.kind,
            "verbs": list(_VERBS),
        }
        if info.short_names:
            entry["shortNames"] = list(info.short_names)
        if info.categories:
            entry["categories"] = list(info.categories)
        resources.append(entry)
        if info.has_status:
            resources.append(
                {
                    "name": f"{res.plural}/status",
                    "singularName": "",
                    "namespaced": res.namespaced,
                    "kind": res.kind,
                    "verbs": ["get", "patch", "update"],
                }
            )
        if res.plural == "pods":
            resources.append(
                {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
            )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group_name}/{version}" if group_name else version,
        "resources": resources,
    }


def openapi_index(kinds: Kinds) -> Object:
    """`/openapi/v3`."""
    paths = {_openapi_path(resource) for resource in kinds}
    return {
        "paths": {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={_hash(kinds, path)}"}
            for path in sorted(paths)
        }
    }


def _hash(kinds: Kinds, path: str) -> str:
    return hashlib.sha256(json.dumps(openapi_document(kinds, path), sort_keys=True).encode()).hexdigest()[:32]


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


def openapi_document(kinds: Kinds, path: str) -> Object | None:
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


def openapi_v2(kinds: Kinds) -> Object:
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
