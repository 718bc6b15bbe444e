"""create, replace, patch and delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from knative.client import resources
from knative.local import objects
from knative.local.apiserver import errors, managed_fields
from knative.local.apiserver.api import list_chunks, patches, request_info
from knative.local.apiserver.api.read_handlers import selection
from knative.local.apiserver.api.request_info import RequestInfo
from knative.local.apiserver.registry import Registry, WriteResult
from knative.local.apiserver.schemas import cel_rules, structural
from knative.local.apiserver.store import Key


class WriteHandlers:
    """What can be changed of objects over HTTP."""

    def __init__(self, registry: Registry, now: Callable[[], datetime]) -> None:
        self._registry = registry
        self._store = registry.store
        self._now = now

    async def create(self, request: Request, target: RequestInfo) -> Response:
        """A new object."""
        self._refuse_pods(target)
        await self._prepare(target)
        options = request_info.options(request)
        value, warnings = request_info.parse(
            await request_info.body(request), request_info.content_type(request), options.validation
        )
        obj = request_info.mapping(value)
        namespace = target.namespace
        res = target.info.resource
        if res.namespaced and namespace is None:
            raise errors.bad_request("an empty namespace may not be set during creation", target.subject)
        written = self._registry.create(res, namespace or "", obj, options)
        return await self._acknowledge(written, 201, warnings)

    async def replace(self, request: Request, target: RequestInfo) -> Response:
        """The whole object anew."""
        await self._prepare(target)
        options = request_info.options(request)
        value, warnings = request_info.parse(
            await request_info.body(request), request_info.content_type(request), options.validation
        )
        obj = request_info.mapping(value)
        written = self._registry.update(target.key, obj, options, subresource=target.subresource)
        return await self._acknowledge(written, 200, warnings)

    async def patch(self, request: Request, target: RequestInfo) -> Response:
        """A part of the object anew, in any of the patch formats."""
        await self._prepare(target)
        media_type = request_info.content_type(request)
        if media_type == "application/apply-patch+yaml":
            return await self._apply(request, target)
        options = request_info.options(request)
        value, warnings = request_info.parse(
            await request_info.body(request), _as_json(media_type), options.validation
        )
        key = target.key
        old = self._registry.read(key)
        if media_type == "application/json-patch+json":
            patched = patches.json_patch(old.obj, value)
        elif media_type == "application/merge-patch+json":
            patched = patches.merge_patch(old.obj, value)
        elif media_type == "application/strategic-merge-patch+json" and not target.info.custom:
            patched = patches.strategic_patch(old.obj, value)
        else:
            known = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            raise errors.ApiError(
                415,
                "UnsupportedMediaType",
                f"the body of the request was in an unknown format - accepted media types include: {known}",
            )
        obj = objects.clone(request_info.mapping(patched))
        written = self._registry.update(key, obj, options, subresource=target.subresource)
        return await self._acknowledge(written, 200, warnings)

    async def _apply(self, request: Request, target: RequestInfo) -> Response:
        options = request_info.options(request, "Apply")
        data = await request_info.body(request)
        value, warnings = request_info.parse(data, "application/yaml", options.validation)
        config = request_info.mapping(value)
        if config["metadata"].get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil", target.subject)
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
                target.subject,
            )
        live = self._store.get(key)
        if live is None and target.subresource:
            raise errors.not_found(target.subject)
        if live is None:
            self._refuse_pods(target)
        merged = managed_fields.apply(
            target.info.schema,
            None if live is None else live.obj,
            config,
            manager=options.manager,
            force=request_info.flag(request, "force"),
            now=objects.timestamp(self._now()),
            subject=target.subject,
            subresource=target.subresource,
        )
        obj = objects.clone(merged)
        if live is None:
            return await self._acknowledge(
                self._registry.create(res, key.namespace, obj, options), 201, warnings
            )
        written = self._registry.update(key, obj, options, subresource=target.subresource)
        return await self._acknowledge(written, 200, warnings)

    async def delete(self, request: Request, target: RequestInfo) -> Response:
        """Delete one object."""
        choice = await self._delete_options(request)
        written = self._delete(target.key, choice)
        if written.version is not None:
            await self._store.durable(written.version)
        if written.obj["metadata"].get("deletionTimestamp"):
            return request_info.answer(written.obj)
        subject = target.subject
        return request_info.answer(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": {
                    "name": subject.name,
                    "group": subject.group,
                    "kind": subject.plural,
                    "uid": written.obj["metadata"]["uid"],
                },
            }
        )

    async def delete_collection(self, request: Request, target: RequestInfo) -> Response:
        """Delete all objects that the selectors choose."""
        choice = await self._delete_options(request)
        found = list_chunks.read(self._store, selection(request, target), list_chunks.Asked()).records
        for record in found:
            if self._store.get(record.key) is not None:
                self._delete(record.key, choice)
        await self._store.durable()
        res = target.info.resource
        return request_info.answer(
            {
                "kind": f"{res.kind}List",
                "apiVersion": res.api_version,
                "metadata": {"resourceVersion": str(self._store.version)},
                "items": [record.obj for record in found],
            }
        )

    async def _delete_options(self, request: Request) -> dict[str, Any]:
        data = await request_info.body(request)
        given: Any = {}
        if data:
            given, _ = request_info.parse(data, request_info.content_type(request), "Ignore")
            if not isinstance(given, dict):
                raise errors.bad_request("the body of a deletion is a DeleteOptions object")
        query = request.query_params
        choice: dict[str, Any] = {}
        propagation = given.get("propagationPolicy") or query.get("propagationPolicy")
        if propagation is None and (
            given.get("orphanDependents") or request_info.flag(request, "orphanDependents")
        ):
            propagation = "Orphan"
        if propagation not in (None, "Orphan", "Background", "Foreground"):
            raise errors.bad_request(
                f'propagationPolicy: Unsupported value: "{propagation}": "Background", "Foreground", "Orphan"'
            )
        choice["propagation"] = propagation
        preconditions = given.get("preconditions") or {}
        choice["uid"] = preconditions.get("uid")
        choice["resource_version"] = preconditions.get("resourceVersion")
        grace = given.get("gracePeriodSeconds")
        choice["grace_seconds"] = (
            grace if grace is not None else request_info.number(request, "gracePeriodSeconds")
        )
        choice["dry_run"] = bool(given.get("dryRun") or query.get("dryRun"))
        return choice

    def _delete(self, key: Key, choice: dict[str, Any]) -> WriteResult:
        return self._registry.delete(key, **choice)

    async def _acknowledge(self, written: WriteResult, status: int, warnings: Sequence[str]) -> Response:
        """Answer once what was written is on disk."""
        if written.version is not None:
            await self._store.durable(written.version)
        response = request_info.answer(written.obj, status)
        for warning in (*warnings, *written.warnings):
            response.headers.append("warning", f'299 - "{_escaped(warning)}"')
        return response

    async def _prepare(self, target: RequestInfo) -> None:
        """What takes too long for the event loop, the first time."""
        if target.info.has_rules and not cel_rules.ready():
            await asyncio.to_thread(cel_rules.load)

    def _refuse_pods(self, target: RequestInfo) -> None:
        if target.info.resource == resources.POD:
            raise errors.ApiError(
                403,
                "Forbidden",
                "pods are made by Revisions on this platform: create a Service instead",
                target.subject,
            )


def _as_json(media_type: str) -> str:
    return "application/json" if media_type.endswith("+json") else media_type


def _escaped(text: str) -> str:
    """As a quoted string of a header."""
    plain = text.encode("ascii", "replace").decode().replace("\n", " ")
    return plain.replace("\\", "\\\\").replace('"', '\\"')
