"""The API's front door: who may enter, where a path leads, how errors are worded."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from knative.client import resources
from knative.client.resources import Object
from knative.labels import PORT_ANNOTATION
from knative.local import objects
from knative.local.apiserver import errors
from knative.local.apiserver.api import request_info
from knative.local.apiserver.api.log_index import LogPath
from knative.local.apiserver.api.pod_logs import PodLogs
from knative.local.apiserver.api.read_handlers import ReadHandlers
from knative.local.apiserver.api.request_info import RequestInfo, target
from knative.local.apiserver.api.static_documents import StaticDocuments
from knative.local.apiserver.api.watches import WatchBroadcaster
from knative.local.apiserver.api.write_handlers import WriteHandlers
from knative.local.apiserver.metadata import USER
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import StoreError

log = logging.getLogger(__name__)

_INTERACTIVE = frozenset({"exec", "attach", "portforward", "proxy"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handler = Callable[[Request, RequestInfo], Awaitable[Response]]


class Api:
    """The ASGI application.

    Args:
        registry: the objects.
        token: the bearer token that every request must carry, health and metrics aside.
        metrics: makes the Prometheus text of `/metrics`.
        now: the wall clock, for ages.
        log_path: where a container's output is.
        address: the host and port it is reached at, for discovery.
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
    ) -> None:
        self._registry = registry
        self._token = f"Bearer {token}".encode()
        self._metrics = metrics
        self._kinds = dict(registry.kinds)
        self._documents = StaticDocuments(self._kinds, address)
        self.watches = WatchBroadcaster(registry.store)
        self._reads = ReadHandlers(registry, self.watches, now)
        self._writes = WriteHandlers(registry, now)
        self._logs = PodLogs(registry.store, log_path, now)

    async def run(self) -> None:
        """What goes on beside the requests, until cancelled: watching how the logs grow."""
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
        try:
            response = await self._answer(request)
        except errors.ApiError as problem:
            response = _failure(problem)
        except StoreError as problem:
            response = _failure(errors.ApiError(500, "InternalError", str(problem)))
        except ClientDisconnect:  # in the middle of its body: nothing to apply, and nobody to answer
            log.debug("%s %s: the client left", request.method, request.url.path)
            return
        except Exception:  # the last line of defence: a client gets a Status, the log gets the cause
            log.exception("%s %s failed", request.method, request.url.path)
            response = _failure(
                errors.ApiError(500, "InternalError", "internal error; see the platform's log")
            )
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:  # noqa: PLR0911  # a table of paths
        path = request.url.path.rstrip("/") or "/"
        if path in ("/healthz", "/livez", "/readyz"):
            return PlainTextResponse("ok")
        if path == "/metrics" and _is_loopback(request):
            return PlainTextResponse(self._metrics(), media_type="text/plain; version=0.0.4")
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._token):
            raise errors.ApiError(401, "Unauthorized", "Unauthorized")
        if path == "/metrics":
            return PlainTextResponse(self._metrics(), media_type="text/plain; version=0.0.4")
        found = target(path, self._kinds)
        if found is not None:
            return await self._on_objects(request, found)
        if request.method == "POST" and (review := _review(path)) is not None:
            return review
        if request.method in ("GET", "HEAD"):
            document = self._documents.answer(request, path)
            if document is not None:
                return document
        return _no_such_path()

    def _no_way_in(self, found: RequestInfo) -> errors.ApiError:
        """Why there is no `exec`, `attach` or `port-forward`, and what to do instead."""
        pod = self._registry.read(found.key).obj
        port = objects.annotations_of(pod).get(PORT_ANNOTATION)
        if found.subresource == "portforward":
            where = f"at http://127.0.0.1:{port}" if port else "once it runs"
            advice = f"a replica is a process of this machine and answers there itself, {where}"
        else:
            advice = (
                "a replica is a process of this machine, without a container to enter; "
                "its output is in `kubectl logs`"
            )
        return errors.ApiError(
            501, "NotImplemented", f"pods/{found.subresource} is not offered here: {advice}", found.subject
        )

    async def _log(self, request: Request, found: RequestInfo) -> Response:
        return self._logs.answer(request, self._registry.read(found.key))

    async def _on_objects(self, request: Request, found: RequestInfo) -> Response:
        reads, writes = self._reads, self._writes
        handlers: Mapping[str, Handler] = {}
        if found.name is None:
            handlers = {"GET": reads.list, "POST": writes.create, "DELETE": writes.delete_collection}
        elif found.subresource in _INTERACTIVE and found.info.resource == resources.POD:
            raise self._no_way_in(found)
        elif found.subresource == "log" and found.info.resource == resources.POD:
            handlers = {"GET": self._log}
        elif found.subresource == "status" and found.info.has_status:
            handlers = {"GET": reads.get, "PUT": writes.replace, "PATCH": writes.patch}
        elif found.subresource is None:
            handlers = {
                "GET": reads.get,
                "PUT": writes.replace,
                "PATCH": writes.patch,
                "DELETE": writes.delete,
            }
        if not handlers:
            return _no_such_path()
        method = "GET" if request.method == "HEAD" else request.method
        handler = handlers.get(method)
        if handler is None:
            raise errors.ApiError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        return await handler(request, found)


def _no_such_path() -> Response:
    """As an API server says it: in plain text, by which clients tell a missing kind from a missing object."""
    return PlainTextResponse("404 page not found\n", 404)


def _failure(problem: errors.ApiError) -> Response:
    response = request_info.answer(problem.status(), problem.code)
    if problem.retry_after is not None:
        response.headers["retry-after"] = str(problem.retry_after)
    if problem.code == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _review(path: str) -> Response | None:
    """What a client asks about itself: whoever has the token may do everything."""
    group, _, plural = path.removeprefix("/apis/").partition("/v1/")
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    rules: Object = {"resourceRules": [everything], "nonResourceRules": [], "incomplete": False}
    user: Object = {"username": USER, "groups": ["system:masters", "system:authenticated"]}
    kind, status = {
        ("authorization.k8s.io", "selfsubjectaccessreviews"): ("SelfSubjectAccessReview", {"allowed": True}),
        ("authorization.k8s.io", "selfsubjectrulesreviews"): ("SelfSubjectRulesReview", rules),
        ("authentication.k8s.io", "selfsubjectreviews"): ("SelfSubjectReview", {"userInfo": user}),
    }.get((group, plural), (None, None))
    if kind is None:
        return None
    review = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {}, "spec": {}, "status": status}
    return request_info.answer(review, 201)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
