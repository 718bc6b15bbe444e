"""get, list and watch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knative.client.cluster import Object
from knative.local.apiserver import errors
from knative.local.apiserver.api import pages, requests, selectors, tables
from knative.local.apiserver.api.requests import Target
from knative.local.apiserver.api.views import Form, View, partial, wanted
from knative.local.apiserver.api.watches import Selection, Watches, WatchOptions, renderer
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Record, Stale

_LONGEST_WATCH_S = 3600.0


def selection(request: Request, target: Target) -> Selection:
    """The objects that a request on a collection is about."""
    query = request.query_params
    by_label = selectors.labels(query.get("labelSelector"))
    by_field = selectors.fields(query.get("fieldSelector"), target.info.resource.plural)
    return Selection(target.info, target.namespace, lambda obj: by_label(obj) and by_field(obj))


class Reads:
    """What can be read of objects over HTTP."""

    def __init__(self, registry: Registry, watches: Watches, now: Callable[[], datetime]) -> None:
        self._registry = registry
        self._store = registry.store
        self._watches = watches
        self._now = now

    async def get(self, request: Request, target: Target) -> Response:
        """One object."""
        record = self._registry.read(target.key)
        await self._store.durable(record.version)
        view = _view(request)
        if view.form is Form.TABLE:
            return self._table(request, target, [record], view, {"resourceVersion": str(record.version)})
        if view.form is Form.METADATA:
            return requests.answer(partial(record, view.version))
        return Response(record.raw, media_type="application/json")

    async def list(self, request: Request, target: Target) -> Response:
        """Many objects, or a watch on them."""
        chosen = selection(request, target)
        if requests.flag(request, "watch"):
            return await self._watch(request, chosen)
        page = pages.read(self._store, chosen, _page(request))
        await self._store.durable()
        view = _view(request)
        if view.form is Form.TABLE:
            return self._table(request, target, page.records, view, page.metadata)
        if view.form is Form.METADATA:
            return requests.answer(
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
        target: Target,
        records: Sequence[Record],
        view: View,
        metadata: Object,
    ) -> Response:
        include = request.query_params.get("includeObject", "Metadata")
        content = tables.table(
            target.info, records, self._now(), include=include, version=view.version, metadata=metadata
        )
        return requests.answer(content)

    async def _watch(self, request: Request, chosen: Selection) -> Response:
        query = request.query_params
        version = requests.number(request, "resourceVersion")
        initial = requests.flag(request, "sendInitialEvents")
        since = None if initial else version or None
        timeout = requests.number(request, "timeoutSeconds")
        include = query.get("includeObject", "Metadata")
        options = WatchOptions(
            since=since,
            bookmarks=requests.flag(request, "allowWatchBookmarks"),
            initial_events=initial,
            timeout_s=min(float(timeout), _LONGEST_WATCH_S) if timeout else _LONGEST_WATCH_S,
            render=renderer(chosen.info, _view(request), self._now, include),
        )
        if since is not None:
            # Tell now rather than in the stream: a status line can say it plainly.
            try:
                self._store.since(since)
            except Stale as problem:
                raise errors.expired(str(problem)) from problem
        lines = self._watches.stream(chosen, options)
        return StreamingResponse(lines, media_type="application/json")


def _view(request: Request) -> View:
    return wanted(request.headers.get("accept", ""))


def _page(request: Request) -> pages.Asked:
    query = request.query_params
    exact = query.get("resourceVersionMatch") == "Exact"
    version = requests.number(request, "resourceVersion") if exact else None
    if exact and version is None:
        raise errors.bad_request("resourceVersionMatch: Forbidden: Exact needs a resourceVersion")
    return pages.Asked(requests.number(request, "limit") or None, query.get("continue") or None, version)
