"""Handlers of get, list and watch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knative.client.resources import Object
from knative.local.apiserver.api import query, tables
from knative.local.apiserver.api.negotiation import Form, accepted_form
from knative.local.apiserver.api.request_info import RequestInfo
from knative.local.apiserver.api.responses import json_response
from knative.local.apiserver.api.selection import Selection
from knative.local.apiserver.api.watches import WatchBroadcaster, WatchOptions, renderer
from knative.local.apiserver.records import Record
from knative.local.apiserver.registry import Registry

_MAX_WATCH_S = 3600.0


class ReadHandlers:
    """Answers requests that read objects."""

    def __init__(self, registry: Registry, watches: WatchBroadcaster, now: Callable[[], datetime]) -> None:
        self._registry = registry
        self._store = registry.store
        self._watches = watches
        self._now = now

    async def get(self, request: Request, target: RequestInfo) -> Response:
        """One object."""
        record = self._registry.get(target.key)
        await self._store.durable(record.version)
        if _form(request) is Form.TABLE:
            return self._table(request, target, [record], {"resourceVersion": str(record.version)})
        return Response(record.raw, media_type="application/json")

    async def list(self, request: Request, target: RequestInfo) -> Response:
        """All objects that the selectors choose (`limit` is ignored, as a server may), or a watch on them."""
        selection = Selection.of(request.query_params, target)
        if query.flag(request, "watch"):
            return self._watch(request, selection)
        records = selected(self._registry, selection)
        metadata: Object = {"resourceVersion": str(self._store.version)}
        await self._store.durable()
        if _form(request) is Form.TABLE:
            return self._table(request, target, records, metadata)
        res = target.info.resource
        head = json.dumps(
            {"kind": f"{res.kind}List", "apiVersion": res.api_version, "metadata": metadata},
            separators=(",", ":"),
        ).encode()
        content = head[:-1] + b',"items":[' + b",".join(record.raw for record in records) + b"]}"
        return Response(content, media_type="application/json")

    def _table(
        self, request: Request, target: RequestInfo, records: Sequence[Record], metadata: Object
    ) -> Response:
        include = request.query_params.get("includeObject", "Metadata")
        content = tables.table(target.info, records, self._now(), include=include, metadata=metadata)
        return json_response(content)

    def _watch(self, request: Request, selection: Selection) -> Response:
        version = query.number(request, "resourceVersion")
        initial = query.flag(request, "sendInitialEvents")
        timeout = query.number(request, "timeoutSeconds")
        include = request.query_params.get("includeObject", "Metadata")
        options = WatchOptions(
            since=None if initial else version or None,
            bookmarks=query.flag(request, "allowWatchBookmarks"),
            initial_events=initial,
            timeout_s=min(float(timeout), _MAX_WATCH_S) if timeout else _MAX_WATCH_S,
            render=renderer(selection.info, _form(request), self._now, include),
        )
        return StreamingResponse(self._watches.stream(selection, options), media_type="application/json")


def selected(registry: Registry, selection: Selection) -> list[Record]:
    """The objects of a selection in the order of namespace and name."""
    found = registry.store.list(selection.info.resource, selection.namespace)
    return [record for record in found if selection.matches(record.obj)]


def _form(request: Request) -> Form:
    return accepted_form(request.headers.get("accept", ""))
