"""The API's front door: who may enter, where a path leads, how errors are worded."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from knative.cluster import Object
from knative.local import errors
from knative.local.api import discovery
from knative.local.api.requests import Target, target
from knative.local.api.verbs import Verbs
from knative.local.api.watches import Watches
from knative.local.registry import Registry
from knative.local.store import StoreError

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

GIT_VERSION = "v1.34.0+pilotlight"
"""The Kubernetes version whose API is followed; clients compare it with their own."""


class Api:
    """The ASGI application.

    Args:
        registry: the objects.
        token: the bearer token that every request must carry, health and metrics aside.
        metrics: makes the Prometheus text of `/metrics`.
        now: the wall clock, for ages.
        log_path: where a pod's log is.
        address: the host and port it is reached at, for discovery.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        token: str,
        metrics: Callable[[], str],
        now: Callable[[], datetime],
        log_path: Callable[[str, str], Path],
        address: str,
    ) -> None:
        self._registry = registry
        self._token = f"Bearer {token}".encode()
        self._metrics = metrics
        self._documents: dict[str, bytes] = {}  # discovery never changes while the platform runs
        self._address = address
        self.watches = Watches(registry.store)
        self._verbs = Verbs(registry, self.watches, now, log_path)

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
        except Exception:  # the last line of defence: a client gets a Status, the log gets the cause
            log.exception("%s %s failed", request.method, request.url.path)
            response = _failure(
                errors.ApiError(500, "InternalError", "internal error; see the platform's log")
            )
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
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
        found = target(path, self._registry.kinds)
        if found is not None:
            return await self._on_objects(request, found)
        if request.method == "POST" and path.startswith("/apis/authorization.k8s.io/v1/"):
            return _access_review(path)
        if request.method in ("GET", "HEAD"):
            content = self._documents.get(path)
            if content is None and (document := self._document(path)) is not None:
                content = self._documents[path] = json.dumps(document, separators=(",", ":")).encode()
            if content is not None:
                return Response(content, media_type="application/json")
        raise errors.ApiError(404, "NotFound", "the server could not find the requested resource")

    async def _on_objects(self, request: Request, found: Target) -> Response:
        verbs = self._verbs
        if found.name is None:
            handlers = {"GET": verbs.list, "POST": verbs.create, "DELETE": verbs.delete_collection}
        elif found.subresource == "log" and found.info.resource.plural == "pods":
            handlers = {"GET": verbs.log}
        elif found.subresource == "status" and found.info.has_status:
            handlers = {"GET": verbs.get, "PUT": verbs.replace, "PATCH": verbs.patch}
        elif found.subresource is None:
            handlers = {
                "GET": verbs.get,
                "PUT": verbs.replace,
                "PATCH": verbs.patch,
                "DELETE": verbs.delete,
            }
        else:
            handlers = {}
        if not handlers:
            raise errors.ApiError(404, "NotFound", "the server could not find the requested resource")
        method = "GET" if request.method == "HEAD" else request.method
        handler = handlers.get(method)
        if handler is None:
            raise errors.ApiError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        return await handler(request, found)

    def _document(self, path: str) -> Object | None:  # noqa: C901, PLR0911  # a table of paths
        kinds = self._registry.kinds
        parts = path.strip("/").split("/")
        match parts:
            case ["version"]:
                return version()
            case ["api"]:
                return discovery.core_versions(self._address)
            case ["apis"]:
                return discovery.group_list(kinds)
            case ["apis", group]:
                return discovery.group(kinds, group)
            case ["api", number]:
                return discovery.resource_list(kinds, "", number)
            case ["apis", group, number]:
                return discovery.resource_list(kinds, group, number)
            case ["openapi", "v3"]:
                return discovery.openapi_index(kinds)
            case ["openapi", "v3", *rest]:
                return discovery.openapi_document(kinds, "/".join(rest))
            case ["openapi", "v2"]:
                return discovery.openapi_v2(kinds)
            case [""]:
                return {"paths": ["/api", "/apis", "/healthz", "/metrics", "/openapi/v3", "/version"]}
        return None


def version() -> Object:
    """`/version`."""
    major, minor, _ = GIT_VERSION.removeprefix("v").split(".", 2)
    return {
        "major": major,
        "minor": minor,
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def json_response(content: Object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(json.dumps(content, separators=(",", ":")), status, media_type="application/json")


def _failure(problem: errors.ApiError) -> Response:
    response = json_response(problem.status(), problem.code)
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


def _access_review(path: str) -> Response:
    """Whoever has the token may do everything."""
    kind = {
        "selfsubjectaccessreviews": "SelfSubjectAccessReview",
        "selfsubjectrulesreviews": "SelfSubjectRulesReview",
    }.get(path.rpartition("/")[2])
    if kind is None:
        raise errors.ApiError(404, "NotFound", "the server could not find the requested resource")
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    status: Object = (
        {"allowed": True}
        if kind == "SelfSubjectAccessReview"
        else {"resourceRules": [everything], "nonResourceRules": [], "incomplete": False}
    )
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": {}, "spec": {}}
    return json_response({**review, "status": status}, 201)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
