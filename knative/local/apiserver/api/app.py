"""The ASGI application of the API: access, routing and the wording of errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from datetime import datetime
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from knative.client import resources
from knative.labels import PORT_ANNOTATION
from knative.local import objects
from knative.local.apiserver import errors
from knative.local.apiserver.api.access import AccessRules
from knative.local.apiserver.api.bodies import READ_TIMEOUT_S
from knative.local.apiserver.api.log_index import LogPath
from knative.local.apiserver.api.pod_logs import PodLogs
from knative.local.apiserver.api.read_handlers import ReadHandlers
from knative.local.apiserver.api.request_info import RequestInfo, request_info
from knative.local.apiserver.api.responses import error_response, no_such_path
from knative.local.apiserver.api.static_documents import StaticDocuments
from knative.local.apiserver.api.watches import WatchBroadcaster
from knative.local.apiserver.api.write_handlers import WriteHandlers
from knative.local.apiserver.records import StoreError
from knative.local.apiserver.registry import Registry
from transport.authority import is_loopback

log = logging.getLogger(__name__)

_INTERACTIVE = frozenset({"exec", "attach", "portforward", "proxy"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Request, RequestInfo], Awaitable[Response]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Api:
    """The ASGI application.

    Args:
        registry: the objects.
        token: the bearer token that every request must carry, health and metrics aside.
        metrics: makes the Prometheus text of `/metrics`.
        now: the wall clock, for ages.
        log_path: where a container's log is.
        address: the host and port that the API is reached at, for discovery.
        hosts: host names, beside `localhost` and IP addresses, under which requests are answered.
        body_timeout_s: seconds in which the body of a request has to come.
        pages: answers the paths below `/ui`, whose access it checks itself.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        token: str,
        metrics: Callable[[], str],
        now: Callable[[], datetime],
        log_path: LogPath,
        address: str,
        hosts: Collection[str] = (),
        body_timeout_s: float = READ_TIMEOUT_S,
        pages: AsgiApp | None = None,
    ) -> None:
        self._registry = registry
        self._access = AccessRules(token, hosts)
        self._metrics = metrics
        self._pages = pages
        self._documents = StaticDocuments(registry.kinds, address)
        self.watches = WatchBroadcaster(registry.store)
        self._reads = ReadHandlers(registry, self.watches, now)
        self._writes = WriteHandlers(registry, now, body_timeout_s=body_timeout_s)
        self._logs = PodLogs(registry.store, log_path, now)

    async def run(self) -> None:
        """Work beside the requests, until cancelled: the index of the logs."""
        await self._logs.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        if self._pages is not None and (request.url.path + "/").startswith("/ui/"):
            await self._pages(scope, receive, send)
            return
        try:
            response = await self._answer(request)
        except errors.ApiError as problem:
            response = error_response(problem)
        except StoreError as problem:
            response = error_response(errors.ApiError(500, "InternalError", str(problem)))
        except ClientDisconnect:  # while it sent its body: nothing to apply, and nobody to answer
            log.debug("%s %r: the client left", request.method, request.url.path)
            return
        except Exception:  # the client gets a Status, the log gets the cause
            log.exception("%s %r failed", request.method, request.url.path)
            response = error_response(
                errors.ApiError(500, "InternalError", "internal error; see the platform's log")
            )
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path.rstrip("/") or "/"
        if path in ("/healthz", "/livez", "/readyz"):
            return PlainTextResponse("ok")
        self._access.check_host(request.headers.get("host", ""), request.headers.get("origin"))
        if path == "/metrics" and request.client is not None and is_loopback(request.client.host):
            return self._metrics_response()
        self._access.check_token(request.headers.get("authorization", ""))
        if path == "/metrics":
            return self._metrics_response()
        target = request_info(path, self._registry.kinds)
        if target is not None:
            return await self._on_objects(request, target)
        if request.method in ("GET", "HEAD"):
            document = self._documents.answer(request, path)
            if document is not None:
                return document
        return no_such_path()

    async def _on_objects(self, request: Request, target: RequestInfo) -> Response:
        if target.subresource in _INTERACTIVE and target.info.resource == resources.POD:
            raise self._not_interactive(target)
        handlers = self._handlers(target)
        if not handlers:
            return no_such_path()
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise errors.ApiError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        return await handler(request, target)

    def _handlers(self, target: RequestInfo) -> Mapping[str, Handler]:
        """Handlers by method; none if the path names nothing."""
        reads, writes = self._reads, self._writes
        if target.name is None:
            return {"GET": reads.list, "POST": writes.create, "DELETE": writes.delete_collection}
        if target.subresource == "log" and target.info.resource == resources.POD:
            return {"GET": self._log}
        if target.subresource == "status" and target.info.has_status:
            return {"GET": reads.get, "PUT": writes.update, "PATCH": writes.patch}
        if target.subresource is None:
            return {
                "GET": reads.get,
                "PUT": writes.update,
                "PATCH": writes.patch,
                "DELETE": writes.delete,
            }
        return {}

    async def _log(self, request: Request, target: RequestInfo) -> Response:
        return self._logs.answer(request, self._registry.get(target.key))

    def _not_interactive(self, target: RequestInfo) -> errors.ApiError:
        """Why there is no `exec`, `attach` or `port-forward`, and what to do instead."""
        pod = self._registry.get(target.key).obj
        port = objects.annotations_of(pod).get(PORT_ANNOTATION)
        if target.subresource == "portforward":
            where = f"at http://127.0.0.1:{port}" if port else "once it runs"
            advice = f"a replica is a process of this machine and answers there itself, {where}"
        else:
            advice = (
                "a replica is a process of this machine, without a container to enter; "
                "its output is in `kubectl logs`"
            )
        return errors.ApiError(
            501, "NotImplemented", f"pods/{target.subresource} is not offered here: {advice}", target.ref
        )

    def _metrics_response(self) -> Response:
        return PlainTextResponse(self._metrics(), media_type="text/plain; version=0.0.4")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
