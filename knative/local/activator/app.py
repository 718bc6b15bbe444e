"""The activator as an ASGI application, and the calls by which controllers configure and observe it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, NoReturn

from knative.local.activator import metrics
from knative.local.activator.access import AccessPolicy
from knative.local.activator.exchange import Exchange
from knative.local.activator.headers import RequestLimits
from knative.local.activator.health import answer_health_check, is_health_check
from knative.local.activator.preflight import answer_preflight, origin_of_preflight
from knative.local.activator.problems import GatewayProblem, RefusedRequestError, Send, start_failure
from knative.local.activator.progress import PROGRESS_S, ProgressComments
from knative.local.activator.protocol import EXTENSION
from knative.local.activator.recent_requests import caller_of
from knative.local.activator.request_body import Receive
from knative.local.activator.request_checks import check_access, request_limits
from knative.local.activator.request_spans import RequestTrace
from knative.local.activator.routes import RouteMatch, RouteTable, ServiceRoute, host_of, known_services
from knative.local.activator.throttler import QUEUE_DEPTH, PodTracker, RevisionThrottler
from knative.local.routing import Endpoint, RevisionKey, RevisionSpec, StartFailure, TrafficTarget
from knative.local.stats import RevisionStat
from transport.pool import UpstreamPool
from transport.propagation import UNDELIVERED
from transport.spans import Spans

REPORT_S = 1.0
UNROUTED_TIMEOUT_S = 300.0
"""Seconds for which a request waits for the first Revision of its Service."""


class Activator:
    """Routes, holds, limits and proxies requests.

    Everything runs on one event loop; the setters are synchronous calls made on that loop and take effect at
    once.

    Args:
        on_stats: receives each second's concurrency and request count of each Revision, and a report at once
            when a Revision without traffic gets a request (which is what scales it from zero).
        clock: seconds, monotonic; the autoscaler must share it.
        queue_depth: how many requests may wait for one Revision; further ones are answered 503.
        access: which hosts and origins are allowed.
        progress_s: seconds between the comments in a stream that waits for a start; 0: none.
        spans: records a span for each request; None: nobody asks for them.
        tls: for replicas that speak TLS.
    """

    def __init__(
        self,
        on_stats: Callable[[Sequence[RevisionStat]], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        queue_depth: int = QUEUE_DEPTH,
        access: AccessPolicy | None = None,
        progress_s: float = PROGRESS_S,
        spans: Spans | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._spans = spans
        self._tls = tls
        self._queue_depth = queue_depth
        self._access = access or AccessPolicy()
        self.start_phase: Callable[[RevisionKey], str] = lambda _: "schedule"
        """What a Revision's first replica is doing on its way; the platform sets it."""
        self._progress = ProgressComments(progress_s, clock, self._phase_of) if progress_s else None
        self._on_stats = on_stats
        self._clock = clock
        self._routes = RouteTable()
        self._throttlers: dict[RevisionKey, RevisionThrottler] = {}
        self._removed: dict[RevisionKey, RevisionThrottler] = {}
        """Removed Revisions that still answer requests."""
        self._active: dict[RevisionKey, RevisionThrottler] = {}
        """Revisions on which a report is due each second."""
        self._unrouted: dict[ServiceRoute, list[asyncio.Future[bool]]] = {}
        self._pool: UpstreamPool | None = None
        self._stopping = False
        self._reporting: asyncio.Task[None] | None = None

    # configuration, by the controllers

    def set_service(
        self, namespace: str, name: str, splits: Sequence[TrafficTarget], failure: StartFailure | None = None
    ) -> None:
        """Make a Service answer at its URLs.

        Without `splits`, its requests wait for a Revision; or are answered 503 if there is a `failure`.
        """
        route = self._routes.set(namespace, name, splits)
        route.failure = failure
        if route.revisions or failure is not None:
            self._wake(route, routable=True)

    def remove_service(self, namespace: str, name: str) -> None:
        """Forget a Service: its URLs, and the requests that wait for a Revision of it, are answered 404."""
        route = self._routes.remove(namespace, name)
        if route is not None:
            self._wake(route, routable=False)

    def set_revision(self, spec: RevisionSpec) -> None:
        """Add or change a Revision; changed limits hold from the next request on."""
        throttler = self._throttler(spec.key)
        throttler.spec = spec
        throttler.release_waiters()

    def set_failure(self, key: RevisionKey, failure: StartFailure | None) -> None:
        """Set why a Revision's replicas do not start; while it has none, its requests are answered 503."""
        self._throttler(key).set_failure(failure)

    def remove_revision(self, key: RevisionKey) -> None:
        """Forget a Revision: waiting requests are answered 503, retryable; those in flight complete."""
        throttler = self._throttlers.pop(key, None)
        if throttler is not None:
            throttler.abandon()
            throttler.set_endpoints(())
            if throttler.in_flight:
                self._removed[key] = throttler

    def set_endpoints(self, key: RevisionKey, endpoints: tuple[Endpoint, ...]) -> None:
        """Set a Revision's ready replicas. A replica that is left out gets no new request."""
        self._throttler(key).set_endpoints(endpoints)

    # observation

    def busy_seconds(self, key: RevisionKey) -> float:
        """Seconds with at least one request in flight, summed over all replicas this Revision ever had.

        0 for an unknown Revision.
        """
        throttler = self._throttlers.get(key) or self._removed.get(key)
        return 0.0 if throttler is None else throttler.busy_seconds()

    def in_flight(self, key: RevisionKey, pod: str) -> int:
        """Requests that this replica is answering, also after it was left out of `set_endpoints`."""
        found = self._pod(key, pod)
        return 0 if found is None else found.in_flight

    async def drained(self, key: RevisionKey, pod: str, timeout_s: float) -> bool:
        """Wait until a replica answers no request; False: not within `timeout_s`.

        Upgraded connections are not waited for.
        """
        found = self._pod(key, pod)
        if found is None or found.is_drained:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found.drained.append(waiter)
        done, _ = await asyncio.wait([waiter], timeout=timeout_s)
        return bool(done)

    def waiting(self, key: RevisionKey) -> int:
        """Requests that wait for a replica or for a free slot."""
        throttler = self._throttlers.get(key)
        return 0 if throttler is None else throttler.waiting

    def metrics(self) -> str:
        """The activator's metrics in Prometheus' text format, under Knative's names."""
        return metrics.render(self._throttlers.values(), self._clock())

    # ASGI

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI entry point. WebSockets arrive as `http` with an upgrade (see `protocol`)."""
        if scope["type"] == "http":
            connection = scope["extensions"][EXTENSION]
            try:
                await self._answer(scope, receive, send)
            except asyncio.CancelledError:
                if not connection.client_disconnected:
                    connection.abort()  # the server stops and does not wait any longer
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(
                f"the activator does not support ASGI {scope['type']!r}; serve it with `server()`"
            )

    async def start(self) -> None:
        """Open the connection pool and start reporting each second (ASGI's lifespan does this)."""
        self._pool = UpstreamPool(tls=self._tls)
        self._reporting = asyncio.create_task(self._report())

    def stop_holding(self) -> None:
        """Answer waiting requests with 503."""
        self._stopping = True
        for throttler in self._throttlers.values():
            throttler.abandon()
        for route in tuple(self._unrouted):
            self._wake(route, routable=False)

    async def stop(self) -> None:
        """Answer waiting requests with 503 and close the connections to replicas."""
        self.stop_holding()
        if self._reporting is not None:
            self._reporting.cancel()
        if self._pool is not None:
            self._pool.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                return await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        arrived = self._clock()
        match = self._routes.match(host_of(scope["headers"]), scope["raw_path"])
        if match is None and scope["raw_path"] == b"/healthz":
            return await _healthy(send)
        try:
            allowed = self._allowed_origins(match)
            check_access(scope, match, self._access, allowed)
            match = match or self._no_service(scope)
            preflight = origin_of_preflight(scope["method"], scope["headers"])
            if preflight is not None and allowed is not None:
                return await answer_preflight(send, preflight, scope["headers"], allowed)
            limits = request_limits(scope["headers"])
            key = match.route.choose() or await self._first_revision(match.route, limits)
        except RefusedRequestError as refused:
            path = scope["raw_path"] if match is None else match.raw_path
            return await refused.problem.send(send, path=path, more=[(UNDELIVERED, b"true")])
        if self._pool is None:
            raise RuntimeError("the activator was not started")
        throttler = self._throttler(key)
        if throttler.spec.answers_health and is_health_check(scope["method"], match.raw_path):
            return await answer_health_check(send, throttler)
        stats = throttler.stats
        if stats.enter(arrived):
            self._active[key] = throttler
            self._on_stats((RevisionStat(key, arrived, 1.0, 1.0),))
        throttler.recent.add(caller_of(scope["method"], match.raw_path, scope["headers"]), arrived)
        trace = None if self._spans is None else RequestTrace(self._spans, scope["headers"])
        exchange = Exchange(
            self._pool,
            clock=self._clock,
            scope=scope,
            receive=receive,
            send=send,
            match=match,
            throttler=throttler,
            limits=limits,
            progress=self._progress,
            traceparent=None if trace is None else trace.traceparent,
        )
        try:
            await exchange.run(arrived)
        finally:
            now = self._clock()
            stats.leave(now)
            throttler.counts.add(exchange.status, now - arrived)
            if trace is not None:
                trace.ended(scope, throttler.spec, exchange, arrived)
            if self._removed and self._removed.get(key) is throttler and not throttler.in_flight:
                del self._removed[key]

    def _allowed_origins(self, match: RouteMatch | None) -> frozenset[str] | None:
        """The origins that a Service allows, as the Revision says that gets most of its requests."""
        if match is None or not match.route.revisions:
            return None
        throttler = self._throttlers.get(match.route.revisions[0])
        return None if throttler is None else throttler.spec.allowed_origins

    def _phase_of(self, key: RevisionKey) -> str:
        return self.start_phase(key)

    def _no_service(self, scope: dict[str, Any]) -> NoReturn:
        host, raw_path = host_of(scope["headers"]), scope["raw_path"]
        detail = (
            f"no Service answers at host {host.decode('latin-1')!r}, path {raw_path.decode('latin-1')!r};"
            " a Service answers at http://NAME.NAMESPACE.localhost/ and at the path /NAMESPACE/NAME/"
        )
        members = known_services(self._routes.names())
        raise RefusedRequestError(GatewayProblem(HTTPStatus.NOT_FOUND, detail, members=members))

    async def _first_revision(self, route: ServiceRoute, limits: RequestLimits) -> RevisionKey:
        """Wait until a Service has a Revision.

        Raises:
            RefusedRequestError: the Service was removed, no Revision of it starts, or it took too long.
        """
        seconds = UNROUTED_TIMEOUT_S
        if limits.deadline_s is not None:
            seconds = min(seconds, limits.deadline_s)
        try:
            async with asyncio.timeout(seconds):
                while (key := route.choose()) is None:
                    if route.failure is not None:
                        raise RefusedRequestError(start_failure(route.failure, route.name))
                    waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                    self._unrouted.setdefault(route, []).append(waiter)
                    if not await waiter:
                        raise RefusedRequestError(self._gone(route))
        except TimeoutError:
            detail = f"no Revision of {route} became ready within {seconds:g} s"
            problem = GatewayProblem(HTTPStatus.GATEWAY_TIMEOUT, detail, retryable=True)
            raise RefusedRequestError(problem) from None
        return key

    def _gone(self, route: ServiceRoute) -> GatewayProblem:
        if self._stopping:
            return GatewayProblem(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway stops", retryable=True)
        return GatewayProblem(HTTPStatus.NOT_FOUND, f"Service {route} was removed")

    def _wake(self, route: ServiceRoute, *, routable: bool) -> None:
        for waiter in self._unrouted.pop(route, ()):
            if not waiter.done():
                waiter.set_result(routable)

    def _pod(self, key: RevisionKey, name: str) -> PodTracker | None:
        for throttlers in (self._throttlers, self._removed):
            if key in throttlers and (found := throttlers[key].pod(name)) is not None:
                return found
        return None

    def _throttler(self, key: RevisionKey) -> RevisionThrottler:
        throttler = self._throttlers.get(key)
        if throttler is None:
            throttler = self._throttlers[key] = RevisionThrottler(
                RevisionSpec(key, key.name), self._clock, self._queue_depth
            )
        return throttler

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            now = self._clock()
            stats = []
            for key, throttler in tuple(self._active.items()):
                stats.append(throttler.stats.report(key, now))
                if not throttler.stats.active:
                    del self._active[key]
            if stats:
                self._on_stats(stats)


async def _healthy(send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
