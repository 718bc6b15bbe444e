"""Handlers of create, update, patch, apply and delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from knative.client import resources
from knative.client.resources import Object
from knative.local import objects
from knative.local.apiserver import errors, server_side_apply
from knative.local.apiserver.api import bodies, patches, query
from knative.local.apiserver.api.bounds import check_bounds
from knative.local.apiserver.api.read_handlers import selected
from knative.local.apiserver.api.request_info import RequestInfo
from knative.local.apiserver.api.responses import json_response
from knative.local.apiserver.api.selection import Selection
from knative.local.apiserver.deletion import DeleteOptions
from knative.local.apiserver.registry import Registry, WriteResult
from knative.local.apiserver.schemas import cel_rules, structural
from knative.local.apiserver.validation import WriteOptions

_APPLY = "application/apply-patch+yaml"
_PATCH_TYPES = ("application/json-patch+json", "application/merge-patch+json", _APPLY)
_STRATEGIC = "application/strategic-merge-patch+json"
_MAX_WARNINGS = 4096
"""Characters of all warnings of a response; above it each is cut, and those that do not fit are left out."""
_MAX_WARNING = 256


class WriteHandlers:
    """Answers requests that change objects; each answer waits until the change is on disk."""

    def __init__(self, registry: Registry, now: Callable[[], datetime], *, body_timeout_s: float) -> None:
        self._registry = registry
        self._store = registry.store
        self._now = now
        self._body_timeout_s = body_timeout_s

    async def create(self, request: Request, target: RequestInfo) -> Response:
        """A new object."""
        _refuse_new_pods(target)
        options = query.write_options(request)
        obj, warnings = await self._object(request, target, options)
        res = target.info.resource
        if res.namespaced and target.namespace is None:
            raise errors.bad_request("an empty namespace may not be set during creation", target.ref)
        if obj["metadata"].get("resourceVersion"):
            text = "resourceVersion should not be set on objects to be created"
            raise errors.bad_request(text, target.ref)
        result = self._registry.create(res, target.namespace or "", obj, options)
        return await self._acknowledge(result, 201, warnings)

    async def update(self, request: Request, target: RequestInfo) -> Response:
        """Another object in the place of one, or another status."""
        options = query.write_options(request)
        obj, warnings = await self._object(request, target, options)
        result = self._registry.update(
            target.key, obj, options, subresource=target.subresource, replaces=True
        )
        return await self._acknowledge(result, 200, warnings)

    async def patch(self, request: Request, target: RequestInfo) -> Response:
        """A change to an object, in any of the patch formats."""
        kind = bodies.media_type(request)
        known = (*_PATCH_TYPES, _STRATEGIC) if not target.info.custom else _PATCH_TYPES
        if kind not in known:
            raise errors.ApiError(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: "
                + ", ".join(known),
            )
        if kind == _APPLY:
            return await self._apply(request, target)
        options = query.write_options(request)
        parsed = await self._parsed(request, target)
        warnings = parsed.warnings(options.field_validation)
        old = self._registry.get(target.key)
        if kind == "application/json-patch+json":
            patched = patches.json_patch(old.obj, parsed.value)
        elif kind == "application/merge-patch+json":
            patched = patches.merge_patch(old.obj, parsed.value)
        else:
            patched = patches.strategic_patch(old.obj, parsed.value)
        check_bounds(patched)
        obj = objects.clone(bodies.mapping(patched))
        result = self._registry.update(target.key, obj, options, subresource=target.subresource)
        return await self._acknowledge(result, 200, warnings)

    async def _apply(self, request: Request, target: RequestInfo) -> Response:
        """Server-side apply."""
        options = query.write_options(request, "Apply")
        config, warnings = await self._object(request, target, options)
        if config["metadata"].get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil", target.ref)
        _complete(config, target)
        live = self._store.get(target.key)
        if live is None:
            if target.subresource:
                raise errors.not_found(target.ref)
            _refuse_new_pods(target)
            if config["metadata"].get("resourceVersion"):
                raise errors.conflict(target.ref, "there is no object with this resourceVersion")
        merged = server_side_apply.apply(
            target.info.schema,
            None if live is None else live.obj,
            config,
            manager=options.manager,
            force=query.flag(request, "force"),
            now=objects.timestamp(self._now()),
            ref=target.ref,
            subresource=target.subresource,
        )
        check_bounds(merged)
        obj = objects.clone(merged)
        if live is None:
            result = self._registry.create(target.info.resource, target.key.namespace, obj, options)
            return await self._acknowledge(result, 201, warnings)
        result = self._registry.update(target.key, obj, options, subresource=target.subresource)
        return await self._acknowledge(result, 200, warnings)

    async def delete(self, request: Request, target: RequestInfo) -> Response:
        """The end of one object, at once or when what holds it lets go."""
        result = self._registry.delete(target.key, await self._delete_options(request))
        if result.version is not None:
            await self._store.durable(result.version)
        if result.obj["metadata"].get("deletionTimestamp"):
            return json_response(result.obj)
        ref = target.ref
        details = {
            "name": ref.name,
            "group": ref.group,
            "kind": ref.plural,
            "uid": result.obj["metadata"]["uid"],
        }
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return json_response({**status, "details": details})

    async def delete_collection(self, request: Request, target: RequestInfo) -> Response:
        """The end of all objects that the selectors choose."""
        options = await self._delete_options(request)
        found = selected(self._registry, Selection.of(request.query_params, target))
        for record in found:
            if self._store.get(record.key) is not None:
                self._registry.delete(record.key, options)
        await self._store.durable()
        res = target.info.resource
        return json_response(
            {
                "kind": f"{res.kind}List",
                "apiVersion": res.api_version,
                "metadata": {"resourceVersion": str(self._store.version)},
                "items": [record.obj for record in found],
            }
        )

    async def _parsed(self, request: Request, target: RequestInfo) -> bodies.Parsed:
        if target.info.has_rules and not cel_rules.ready():
            await asyncio.to_thread(cel_rules.load)
        data = await bodies.read(request, self._body_timeout_s)
        return await bodies.parse(data, bodies.media_type(request))

    async def _delete_options(self, request: Request) -> DeleteOptions:
        data = await bodies.read(request, self._body_timeout_s)
        given = (await bodies.parse(data, bodies.media_type(request))).value if data else {}
        return _read_delete_options(request, given)

    async def _object(
        self, request: Request, target: RequestInfo, options: WriteOptions
    ) -> tuple[Object, list[str]]:
        """The object in a request's body, and warnings."""
        parsed = await self._parsed(request, target)
        return bodies.mapping(parsed.value), parsed.warnings(options.field_validation)

    async def _acknowledge(self, result: WriteResult, status: int, warnings: Sequence[str]) -> Response:
        """The answer, once the change is on disk."""
        if result.version is not None:
            await self._store.durable(result.version)
        response = json_response(result.obj, status)
        for warning in _truncated([*warnings, *result.warnings]):
            response.headers.append("warning", f'299 - "{_quoted(warning)}"')
        return response


def _complete(config: Object, target: RequestInfo) -> None:
    """Fill in what the path says of an applied configuration, and refuse values of a wrong type.

    Raises:
        ApiError: 400.
    """
    res, key = target.info.resource, target.key
    config.setdefault("apiVersion", res.api_version)
    config.setdefault("kind", res.kind)
    config["metadata"].setdefault("name", key.name)
    if key.namespace:
        config["metadata"].setdefault("namespace", key.namespace)
    structural.drop_nulls(target.info.schema, config)
    unfit = [
        cause.message
        for cause in structural.violations(target.info.schema, config)
        if cause.reason in ("FieldValueTypeInvalid", "FieldValueDuplicate")
    ]
    if unfit:
        raise errors.bad_request(
            f"failed to create typed patch object ({key.namespace}/{key.name}; {res.api_version}, "
            f"Kind={res.kind}): {'; '.join(unfit)}",
            target.ref,
        )


def _read_delete_options(request: Request, given: Any) -> DeleteOptions:
    """The DeleteOptions in the body and the query of a request.

    Raises:
        ApiError: 400, they can't be read.
    """
    if not isinstance(given, dict):
        raise errors.bad_request("the body of a deletion is a DeleteOptions object")
    params = request.query_params
    propagation = given.get("propagationPolicy") or params.get("propagationPolicy")
    if propagation is None and (given.get("orphanDependents") or query.flag(request, "orphanDependents")):
        propagation = "Orphan"
    if propagation not in (None, "Orphan", "Background", "Foreground"):
        raise errors.bad_request(
            f'propagationPolicy: Unsupported value: "{propagation}": "Background", "Foreground", "Orphan"'
        )
    preconditions = given.get("preconditions") or {}
    grace = given.get("gracePeriodSeconds")
    if grace is None:
        grace = query.number(request, "gracePeriodSeconds")
    if not isinstance(preconditions, dict):
        raise errors.bad_request(
            "preconditions: Invalid value: must be an object with uid or resourceVersion"
        )
    if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int) or grace < 0):
        raise errors.bad_request(f"gracePeriodSeconds: Invalid value: {grace!r}: must be a whole number")
    return DeleteOptions(
        propagation=propagation,  # type: ignore[arg-type]  # checked above
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
        grace_seconds=grace,
        dry_run=bool(given.get("dryRun") or params.get("dryRun")),
    )


def _refuse_new_pods(target: RequestInfo) -> None:
    if target.info.resource == resources.POD:
        raise errors.ApiError(
            403,
            "Forbidden",
            "pods are made by Revisions on this platform: create a Service instead",
            target.ref,
        )


def _truncated(warnings: Sequence[str]) -> Sequence[str]:
    """Warnings that fit into the head of a response, by the rule of k8s.io/apiserver's warning filter."""
    if sum(map(len, warnings)) <= _MAX_WARNINGS:
        return warnings
    kept: list[str] = []
    left = _MAX_WARNINGS
    for warning in warnings:
        shortened = warning[: min(_MAX_WARNING, left)]
        left -= len(shortened)
        if not shortened:
            break
        kept.append(shortened)
    return kept


def _quoted(text: str) -> str:
    """A warning as a quoted string of a header field (RFC 9110, 5.6.4)."""
    plain = "".join(char if " " <= char <= "~" else "?" if char > "~" else " " for char in text)
    return plain.replace("\\", "\\\\").replace('"', '\\"')
