"""The dashboard over HTTP, below `/ui/`: static files for everyone, data and actions for who has a token.

The page keeps its token in the tab and sends it as a bearer token; there are no cookies, so that no other
page and no other port of this machine can act with it.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError, NotFound
from pilotlight.dashboard.gather import Gatherer
from transport.authority import host_name, is_address, is_local_name
from warmpool import operations
from warmpool.domain.duration import parse_duration
from warmpool.domain.spec_errors import SpecError

Right = Literal["read", "write"]
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_BODY_BYTES = 4096
_MOST_LINES = 500
_HEADERS = [
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Dashboard:
    """The ASGI application; its own paths begin with `/ui`.

    Args:
        gatherer: what is shown.
        tokens: gives the tokens that are valid now, each with its right.
        operator: the cluster that actions change; None: nobody can change anything.
        hosts: host names beside `localhost` and IP addresses under which it answers; `*`: any.
    """

    def __init__(
        self,
        gatherer: Gatherer,
        tokens: Callable[[], Mapping[str, Right]],
        *,
        operator: Cluster | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        self._gatherer = gatherer
        self._tokens = tokens
        self._operator = operator
        self._hosts = frozenset(host.lower() for host in hosts)
        folder = files("pilotlight.dashboard") / "static"
        self._static = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
        service = "/ui/api/services/{namespace}/{name}"
        self._app: ASGIApp = Starlette(
            routes=[
                Route("/ui", self._to_page),
                Route("/ui/", self._page),
                Route("/ui/static/{file}", self._file),
                Route("/ui/api/overview", self._guarded(self._overview)),
                Route(service, self._guarded(self._service)),
                Route(f"{service}/logs", self._guarded(self._logs)),
                Route("/ui/api/cost", self._guarded(self._cost)),
                Route(
                    "/ui/api/pools/{namespace}/{name}/{action}", self._guarded(self._act), methods=["POST"]
                ),
            ],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point: the same header fields on every response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_host(Request(scope))
        except _RefusedError as refused:
            await _problem(refused.status, str(refused))(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    # who may

    def _check_host(self, request: Request) -> None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        name = host_name(host)
        if not (is_local_name(name) or is_address(name) or {name, "*"} & self._hosts):
            raise _RefusedError(
                421, f"the host {host[:256]!r} is not a name of this page: use localhost or an address"
            )
        if origin is not None and origin.partition("://")[2] != host:
            raise _RefusedError(403, f"requests from pages of {origin[:256]!r} are not allowed")

    def _guarded(
        self, handler: Callable[[Request, Right], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                return await handler(request, self._right(request))
            except _RefusedError as refused:
                return _problem(refused.status, str(refused))

        return guarded

    def _right(self, request: Request) -> Right:
        given = request.headers.get("authorization", "").encode()
        right: Right | None = None
        for token, its in self._tokens().items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(given, f"Bearer {token}".encode()):
                right = its
        if right is None:
            raise _RefusedError(401, "a token is needed: open the page from the link that was printed")
        return right if self._operator is not None else "read"

    # the page

    async def _to_page(self, request: Request) -> Response:
        _ = request
        return RedirectResponse("/ui/")

    async def _page(self, request: Request) -> Response:
        _ = request
        return Response(self._static["index.html"], media_type="text/html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["file"]
        body = self._static.get(name)
        if body is None:
            return _problem(404, "no such file")
        return Response(body, media_type=_TYPES[name.rpartition(".")[2]])

    # data

    async def _overview(self, request: Request, right: Right) -> Response:
        _ = request
        body = await self._gatherer.overview()
        return Response(body, media_type="application/json", headers={"X-Pilotlight-Right": right})

    async def _service(self, request: Request, right: Right) -> Response:
        _ = right
        return _found(await self._gatherer.service(*_name(request)))

    async def _logs(self, request: Request, right: Right) -> Response:
        _ = right
        text = request.query_params.get("lines", "100")
        if not text.isdecimal() or not 1 <= int(text[:9]) <= _MOST_LINES:
            raise _RefusedError(400, f"lines = {text[:20]!r}, must be from 1 to {_MOST_LINES}")
        return _found(await self._gatherer.logs(*_name(request), int(text)))

    async def _cost(self, request: Request, right: Right) -> Response:
        _ = right
        match request.query_params.get("by", "service"):
            case "service" | "agent" | "key" | "team" as by:
                return JSONResponse(self._gatherer.cost(by))
            case other:
                raise _RefusedError(400, f"by = {other[:40]!r}, must be service, agent, key or team")

    # actions

    async def _act(self, request: Request, right: Right) -> Response:
        if right != "write" or self._operator is None:
            raise _RefusedError(403, "this token may look, not change")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise _RefusedError(415, "the body must be application/json")
        body = await _json(request)
        namespace, name = _name(request)
        try:
            match request.path_params["action"]:
                case "hold":
                    return await self._hold(self._operator, name, namespace, body)
                case "release":
                    await operations.release(self._operator, name, namespace)
                case "enable" | "disable" as action:
                    await operations.enable(self._operator, name, namespace, on=action == "enable")
                case other:
                    raise _RefusedError(404, f"no action {other[:40]!r}: hold, release, enable, disable")
        except NotFound:
            raise _RefusedError(404, f"no WarmPool {namespace}/{name}") from None
        except (ClusterError, SpecError) as problem:
            raise _RefusedError(422, str(problem)) from None
        return JSONResponse({})

    @staticmethod
    async def _hold(operator: Cluster, name: str, namespace: str, body: Mapping[str, Any]) -> Response:
        replicas, text = body.get("replicas"), body.get("for")
        if isinstance(replicas, bool) or not isinstance(replicas, int):
            raise _RefusedError(422, f"replicas = {replicas!r}, must be a whole number")
        try:
            span: timedelta = parse_duration(str(text))
        except ValueError as problem:
            raise _RefusedError(422, f"for = {text!r} {problem}") from None
        now = datetime.now(UTC)
        until = await operations.hold(operator, name, namespace, replicas=replicas, span=span, now=now)
        return JSONResponse({"until": until.isoformat()})


def _name(request: Request) -> tuple[str, str]:
    return request.path_params["namespace"], request.path_params["name"]


async def _json(request: Request) -> dict[str, Any]:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > _BODY_BYTES:
            raise _RefusedError(413, f"the body must be at most {_BODY_BYTES} bytes")
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise _RefusedError(400, "the body must be a JSON object")
    return body


def _found(value: object) -> Response:
    return _problem(404, "no such Service") if value is None else JSONResponse(value)


def _problem(status: int, detail: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(
        {"status": status, "detail": detail}, status, headers, media_type="application/problem+json"
    )
