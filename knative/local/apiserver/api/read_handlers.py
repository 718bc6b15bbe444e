"""get, list and watch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knative.client.resources import Object
from knative.local.apiserver import errors
from knative.local.apiserver.api import list_chunks, request_info, selectors, tables
from knative.local.apiserver.api.representations import Form, Representation, partial, wanted
from knative.local.apiserver.api.request_info import RequestInfo
from knative.local.apiserver.api.watches import Selection, WatchBroadcaster, WatchOptions, renderer
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import HistoryExpired, Record

_LONGEST_WATCH_S = 3600.0


def selection(request: Request, target: RequestInfo) -> Selection:
    """The objects that a request on a collection is about."""
    query = request.query_params
    by_label = selectors.labels(query.get("labelSelector"))
    by_field = selectors.fields(query.get("fieldSelector"), target.info.resource.plural)
    return Selection(target.info, target.namespace, lambda obj: by_label(obj) and by_field(obj))


class ReadHandlers:
    """What can be read of objects over HTTP."""

    def __init__(self, registry: Registry, watches: WatchBroadcaster, now: Callable[[], datetime]) -> None:
        self._registry = registry
        self._store = registry.store
        self._watches = watches
        self._now = now

    async def get(self, request: Request, target: RequestInfo) -> Response:
        """One object."""
        record = self._registry.read(target.key)
        await self._store.durable(record.version)
        view = _view(request)
        if view.form is Form.TABLE:
            return self._table(request, target, [record], view, {"resourceVersion": str(record.version)})
        if view.form is Form.METADATA:
            return request_info.answer(partial(record, view.version))
        return Response(record.raw, media_type="application/json")

    async def list(self, request: Request, target: RequestInfo) -> Response:
        """Many objects, or a watch on them."""
        chosen = selection(request, target)
        if request_info.flag(request, "watch"):
            return await self._watch(request, chosen)
        page = list_chunks.read(self._store, chosen, _page(request))
        await self._store.durable()
        view = _view(request)
        if view.form is Form.TABLE:
            return self._table(request, target, page.records, view, page.metadata)
        if view.form is Form.METADATA:
            return request_info.answer(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": f"meta.k8s.io/{view.version}",
                    "metadata": page.metadata,
                    "items": [partial(record, view.version) for record in page.records],
                }
            )
        res = target.info.resource
        head = json.dumps(
            {"kind": f"{res.kind}List", "apiVersion": res.api_version, "metadata": page.metadata},
            separators=(",", ":"),
        ).encode()
        content = head[:-1] + b',"items":[' + b",".join(record.raw for record in page.records) + b"]}"
        return Response(content, media_type="application/json")

    def _table(
        self,
        request: Request,
        target: RequestInfo,
        records: Sequence[Record],
        view: Representation,
        metadata: Object,
    ) -> Response:
        include = request.query_params.get("includeObject", "Metadata")
        content = tables.table(
            target.info, records, self._now(), include=include, version=view.version, metadata=metadata
        )
        return request_info.answer(content)

    async def _watch(self, request: Request, chosen: Selection) -> Response:
        query = request.query_params
        version = request_info.number(request, "resourceVersion")
        initial = request_info.flag(request, "sendInitialEvents")
        since = None if initial else version or None
        timeout = request_info.number(request, "timeoutSeconds")
        include = query.get("includeObject", "Metadata")
        options = WatchOptions(
            since=since,
            bookmarks=request_info.flag(request, "allowWatchBookmarks"),
            initial_events=initial,
            timeout_s=min(float(timeout), _LONGEST_WATCH_S) if timeout else _LONGEST_WATCH_S,
            render=renderer(chosen.info, _view(request), self._now, include),
        )
        if since is not None:
            # Tell now rather than in the stream: a status line can say it plainly.
            try:
                self._store.since(since)
            except HistoryExpired as problem:
                raise errors.expired(str(problem)) from problem
        lines = self._watches.stream(chosen, options)
        return StreamingResponse(lines, media_type="application/json")


def _view(request: Request) -> Representation:
    return wanted(request.headers.get("accept", ""))


def _page(request: Request) -> list_chunks.Asked:
    query = request.query_params
    exact = query.get("resourceVersionMatch") == "Exact"
    version = request_info.number(request, "resourceVersion") if exact else None
    if exact and version is None:
        raise errors.bad_request("resourceVersionMatch: Forbidden: Exact needs a resourceVersion")
    return list_chunks.Asked(
        request_info.number(request, "limit") or None, query.get("continue") or None, version
    )
