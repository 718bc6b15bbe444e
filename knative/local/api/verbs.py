"""get, list, watch, create, replace, patch and delete."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knative import cluster
from knative.cluster import Object
from knative.local import errors, managed, objects
from knative.local.api import patches, requests, selectors, tables
from knative.local.api.logs import LogPath, PodLogs
from knative.local.api.requests import Target
from knative.local.api.views import Form, View, partial, wanted
from knative.local.api.watches import Selection, Watches, WatchOptions, renderer
from knative.local.registry import Registry, Written
from knative.local.schemas import rules
from knative.local.store import Key, Record, Stale

_Records = list[Record]  # inside `Verbs`, `list` is a method

_LONGEST_WATCH_S = 3600.0


class Verbs:
    """What can be done with objects over HTTP."""

    def __init__(
        self,
        registry: Registry,
        watches: Watches,
        now: Callable[[], datetime],
        log_path: LogPath,
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._watches = watches
        self._now = now
        self.logs = PodLogs(registry.store, log_path, now)

    # reading

    async def get(self, request: Request, target: Target) -> Response:
        """One object."""
        record = self._registry.read(_key(target))
        await self._store.durable(record.version)
        view = _view(request)
        if view.form is Form.TABLE:
            return self._table(request, target, [record], view, {"resourceVersion": str(record.version)})
        if view.form is Form.METADATA:
            return _json(partial(record, view.version))
        return Response(record.raw, media_type="application/json")

    async def list(self, request: Request, target: Target) -> Response:
        """Many objects, or a watch on them."""
        query = request.query_params
        selection = self._selection(request, target)
        if requests.flag(request, "watch"):
            return await self._watch(request, selection)
        found = self._chosen(selection)
        metadata: Object = {"resourceVersion": str(self._store.version)}
        limit = requests.number(request, "limit")
        if token := query.get("continue"):
            after, version = _read_token(token)
            found = [record for record in found if (record.key.namespace, record.key.name) > after]
            metadata["resourceVersion"] = version
        if limit and len(found) > limit:
            last = found[limit - 1].key
            metadata["remainingItemCount"] = len(found) - limit
            metadata["continue"] = _write_token(last.namespace, last.name, metadata["resourceVersion"])
            found = found[:limit]
        await self._store.durable()
        view = _view(request)
        if view.form is Form.TABLE:
            return self._table(request, target, found, view, metadata)
        if view.form is Form.METADATA:
            return _json(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": f"meta.k8s.io/{view.version}",
                    "metadata": metadata,
                    "items": [partial(record, view.version) for record in found],
                }
            )
        res = target.info.resource
        head = json.dumps(
            {"kind": f"{res.kind}List", "apiVersion": res.api_version, "metadata": metadata},
            separators=(",", ":"),
        ).encode()
        content = head[:-1] + b',"items":[' + b",".join(record.raw for record in found) + b"]}"
        return Response(content, media_type="application/json")

    async def log(self, request: Request, target: Target) -> Response:
        """A replica's output."""
        return self.logs.answer(request, self._registry.read(_key(target)))

    def _selection(self, request: Request, target: Target) -> Selection:
        query = request.query_params
        by_label = selectors.labels(query.get("labelSelector"))
        by_field = selectors.fields(query.get("fieldSelector"), target.info.resource.plural)
        return Selection(target.info, target.namespace, lambda obj: by_label(obj) and by_field(obj))

    def _chosen(self, selection: Selection) -> _Records:
        found = self._store.list(selection.info.resource, selection.namespace)
        return [record for record in found if selection.matches(record.obj)]

    def _table(
        self,
        request: Request,
        target: Target,
        records: Sequence[Record],
        view: View,
        metadata: Object,
    ) -> Response:
        include = request.query_params.get("includeObject", "Metadata")
        content = tables.table(
            target.info, records, self._now(), include=include, version=view.version, metadata=metadata
        )
        return _json(content)

    async def _watch(self, request: Request, selection: Selection) -> Response:
        query = request.query_params
        text = query.get("resourceVersion", "")
        if text and not text.isdigit():
            raise errors.bad_request(f"resourceVersion: Invalid value: {text!r}")
        initial = requests.flag(request, "sendInitialEvents")
        since = None if text in ("", "0") or initial else int(text)
        timeout = requests.number(request, "timeoutSeconds")
        include = query.get("includeObject", "Metadata")
        options = WatchOptions(
            since=since,
            bookmarks=requests.flag(request, "allowWatchBookmarks"),
            initial_events=initial,
            timeout_s=min(float(timeout), _LONGEST_WATCH_S) if timeout else _LONGEST_WATCH_S,
            render=renderer(selection.info, _view(request), self._now, include),
        )
        if since is not None:
            # Tell now rather than in the stream: a status line can say it plainly.
            try:
                self._store.since(since)
            except Stale as problem:
                raise errors.expired(str(problem)) from problem
        lines = self._watches.stream(selection, options)
        return StreamingResponse(lines, media_type="application/json")

    # writing

    async def create(self, request: Request, target: Target) -> Response:
        """A new object."""
        self._refuse_pods(target)
        await self._prepare(target)
        options = requests.options(request)
        value, warnings = requests.parse(
            await requests.body(request), requests.content_type(request), options.validation
        )
        obj = requests.mapping(value)
        namespace = target.namespace
        res = target.info.resource
        if res.namespaced and namespace is None:
            raise errors.bad_request("an empty namespace may not be set during creation", target.subject)
        written = self._registry.create(res, namespace or "", obj, options)
        return await self._acknowledge(written, 201, warnings)

    async def replace(self, request: Request, target: Target) -> Response:
        """The whole object anew."""
        await self._prepare(target)
        options = requests.options(request)
        value, warnings = requests.parse(
            await requests.body(request), requests.content_type(request), options.validation
        )
        obj = requests.mapping(value)
        written = self._registry.update(_key(target), obj, options, subresource=target.subresource)
        return await self._acknowledge(written, 200, warnings)

    async def patch(self, request: Request, target: Target) -> Response:
        """A part of the object anew, in any of the patch formats."""
        await self._prepare(target)
        media_type = requests.content_type(request)
        if media_type in ("application/apply-patch+yaml", "application/apply-patch+cbor"):
            return await self._apply(request, target)
        options = requests.options(request)
        value, warnings = requests.parse(
            await requests.body(request), _as_json(media_type), options.validation
        )
        key = _key(target)
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
        obj = objects.clone(requests.mapping(patched))
        written = self._registry.update(key, obj, options, subresource=target.subresource)
        return await self._acknowledge(written, 200, warnings)

    async def _apply(self, request: Request, target: Target) -> Response:
        options = requests.options(request, "Apply")
        data = await requests.body(request)
        value, warnings = requests.parse(data, "application/yaml", options.validation)
        config = requests.mapping(value)
        if config["metadata"].get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil", target.subject)
        res, key = target.info.resource, _key(target)
        config.setdefault("apiVersion", res.api_version)
        config.setdefault("kind", res.kind)
        config["metadata"].setdefault("name", key.name)
        if key.namespace:
            config["metadata"].setdefault("namespace", key.namespace)
        live = self._store.get(key)
        if live is None and target.subresource:
            raise errors.not_found(target.subject)
        if live is None:
            self._refuse_pods(target)
        merged = managed.apply(
            target.info.schema,
            None if live is None else live.obj,
            config,
            manager=options.manager,
            force=requests.flag(request, "force"),
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

    async def delete(self, request: Request, target: Target) -> Response:
        """Delete one object."""
        choice = await self._delete_options(request)
        written = self._delete(_key(target), choice)
        if written.version is not None:
            await self._store.durable(written.version)
        if written.obj["metadata"].get("deletionTimestamp"):
            return _json(written.obj)
        subject = target.subject
        return _json(
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

    async def delete_collection(self, request: Request, target: Target) -> Response:
        """Delete all objects that the selectors choose."""
        choice = await self._delete_options(request)
        found = self._chosen(self._selection(request, target))
        for record in found:
            if self._store.get(record.key) is not None:
                self._delete(record.key, choice)
        await self._store.durable()
        res = target.info.resource
        return _json(
            {
                "kind": f"{res.kind}List",
                "apiVersion": res.api_version,
                "metadata": {"resourceVersion": str(self._store.version)},
                "items": [record.obj for record in found],
            }
        )

    async def _delete_options(self, request: Request) -> dict[str, Any]:
        data = await requests.body(request)
        given: Any = {}
        if data:
            given, _ = requests.parse(data, requests.content_type(request), "Ignore")
            if not isinstance(given, dict):
                raise errors.bad_request("the body of a deletion is a DeleteOptions object")
        query = request.query_params
        choice: dict[str, Any] = {}
        propagation = given.get("propagationPolicy") or query.get("propagationPolicy")
        if propagation is None and (
            given.get("orphanDependents") or requests.flag(request, "orphanDependents")
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
            grace if grace is not None else requests.number(request, "gracePeriodSeconds")
        )
        choice["dry_run"] = bool(given.get("dryRun") or query.get("dryRun"))
        return choice

    def _delete(self, key: Key, choice: dict[str, Any]) -> Written:
        return self._registry.delete(key, **choice)

    async def _acknowledge(self, written: Written, status: int, warnings: Sequence[str]) -> Response:
        """Answer once what was written is on disk."""
        if written.version is not None:
            await self._store.durable(written.version)
        response = _json(written.obj, status)
        for warning in (*warnings, *written.warnings):
            response.headers.append("warning", f'299 - "{_escaped(warning)}"')
        return response

    async def _prepare(self, target: Target) -> None:
        """What takes too long for the event loop, the first time."""
        if target.info.has_rules and not rules.ready():
            await asyncio.to_thread(rules.load)

    def _refuse_pods(self, target: Target) -> None:
        if target.info.resource == cluster.POD:
            raise errors.ApiError(
                403,
                "Forbidden",
                "pods are made by Revisions on this platform: create a Service instead",
                target.subject,
            )


def _key(target: Target) -> Key:
    return Key(target.info.resource, target.namespace or "", target.name or "")


def _view(request: Request) -> View:
    return wanted(request.headers.get("accept", ""))


def _json(content: Object, status: int = 200) -> Response:
    return Response(json.dumps(content, separators=(",", ":")), status, media_type="application/json")


def _as_json(media_type: str) -> str:
    return "application/json" if media_type.endswith("+json") else media_type


def _escaped(text: str) -> str:
    """As a quoted string of a header."""
    plain = text.encode("ascii", "replace").decode().replace("\n", " ")
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _write_token(namespace: str, name: str, version: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([namespace, name, version]).encode()).decode()


def _read_token(token: str) -> tuple[tuple[str, str], str]:
    try:
        namespace, name, version = json.loads(base64.urlsafe_b64decode(token))
    except ValueError as problem:
        raise errors.bad_request("continue key is not valid") from problem
    return (namespace, name), version
