"""The activator as an ASGI application and as the control plane's counterpart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from knative.local.activator import metrics
from knative.local.activator.body import Receive
from knative.local.activator.problems import Problem
from knative.local.activator.protocol import EXTENSION
from knative.local.activator.proxy import Exchange, Send, send_problem
from knative.local.activator.routes import Match, Route, RouteTable, host_of, known_services
from knative.local.activator.throttle import QUEUE_DEPTH, Pod, Revision
from knative.local.routing import Endpoint, RevisionKey, RevisionSpec, Split
from knative.local.stats import RevisionStat
from transport import ConnectionPool

REPORT_S = 1.0
UNROUTED_TIMEOUT_S = 300.0
"""How long a request waits for a Service that has no routable Revision yet."""


class Activator:
    """Routes, holds, limits and proxies requests.

    Everything runs on one event loop; the setters are plain synchronous calls made on that loop and act at
    once.

    Args:
        on_stats: receives each second's concurrency and request count per Revision and, at once, a first
        report when
            a Revision without traffic gets a request (which is what wakes it from zero).
        clock: seconds, monotonic; the autoscaler must share it.
        queue_depth: how many requests may wait for one Revision; more are answered 503.
    """

    def __init__(
        self,
        on_stats: Callable[[Sequence[RevisionStat]], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        queue_depth: int = QUEUE_DEPTH,
    ) -> None:
        self._queue_depth = queue_depth
        self._on_stats = on_stats
        self._clock = clock
        self._routes = RouteTable()
        self._revisions: dict[RevisionKey, Revision] = {}
        self._ending: dict[RevisionKey, Revision] = {}
        self._active: dict[RevisionKey, Revision] = {}
        self._unrouted: dict[Route, list[asyncio.Future[bool]]] = {}
        self._pool: ConnectionPool | None = None
        self._reporting: asyncio.Task[None] | None = None

    # what exists

    def set_service(self, namespace: str, name: str, splits: Sequence[Split]) -> None:
        """Make a Service answer at its URLs. No `splits`: it exists, but its requests wait for a Revision."""
        route = self._routes.set(namespace, name, splits)
        if route.revisions:
            self._wake(route, routable=True)

    def remove_service(self, namespace: str, name: str) -> None:
        """Forget a Service: its URLs answer 404, also to what waits for a Revision; the rest goes on."""
        route = self._routes.remove(namespace, name)
        if route is not None:
            self._wake(route, routable=False)

    def set_revision(self, spec: RevisionSpec) -> None:
        """Add or change a Revision; changed limits hold from the next request on."""
        revision = self._revision(spec.key)
        revision.spec = spec
        revision.release_waiters()

    def remove_revision(self, key: RevisionKey) -> None:
        """Forget a Revision; requests that wait for it are answered 503, retryable, those in flight go on."""
        revision = self._revisions.pop(key, None)
        if revision is not None:
            revision.abandon()
            revision.set_endpoints(())
            if revision.in_flight:
                self._ending[key] = revision

    def set_endpoints(self, key: RevisionKey, endpoints: tuple[Endpoint, ...]) -> None:
        """The replicas of a Revision that are ready now. A replica left out gets no new request."""
        self._revision(key).set_endpoints(endpoints)

    # what is going on

    def busy_seconds(self, key: RevisionKey) -> float:
        """Sum over all replicas this Revision ever had of the seconds with at least one request in flight.

        0 for a Revision that is not known.
        """
        revision = self._known(key)
        return 0.0 if revision is None else revision.busy_seconds()

    def in_flight(self, key: RevisionKey, pod: str) -> int:
        """Requests that this replica is answering now (also after it was left out of `set_endpoints`)."""
        found = self._pod(key, pod)
        return 0 if found is None else found.in_flight

    async def drained(self, key: RevisionKey, pod: str, *, timeout_s: float) -> bool:
        """Wait until a replica has no request in flight; False: the time was up first."""
        found = self._pod(key, pod)
        if found is None or not found.in_flight:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found.idle.append(waiter)
        done, _ = await asyncio.wait([waiter], timeout=timeout_s)
        return bool(done)

    def waiting(self, key: RevisionKey) -> int:
        """Requests held for want of a replica or of a free slot."""
        revision = self._revisions.get(key)
        return 0 if revision is None else revision.waiting

    def metrics(self) -> str:
        """Prometheus text with Knative's names, to be served by whoever owns `/metrics`."""
        return metrics.render(self._revisions.values())

    # ASGI

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI entry point. WebSockets arrive as `http` with an upgrade (see `protocol`)."""
        if scope["type"] == "http":
            connection = scope["extensions"][EXTENSION]
            try:
                await self._answer(scope, receive, send)
            except asyncio.CancelledError:
                if not connection.client_gone:
                    connection.break_off()  # the server stops and cannot wait any longer
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(
                f"the activator does not speak ASGI {scope['type']!r}; serve it with `server()`"
            )

    async def start(self) -> None:
        """Open the connection pool and start reporting each second (lifespan does this)."""
        self._pool = ConnectionPool()
        self._reporting = asyncio.create_task(self._report())

    def stop_holding(self) -> None:
        """Answer what waits with 503."""
        for revision in self._revisions.values():
            revision.abandon()
        for route in tuple(self._unrouted):
            self._wake(route, routable=False)

    async def stop(self) -> None:
        """Answer what waits with 503, close connections."""
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
        began = self._clock()
        host = host_of(scope["headers"])
        match = self._routes.match(host, scope["raw_path"])
        if match is None:
            return await self._unknown(host, scope["raw_path"], send)
        key = match.route.choose()
        if key is None:
            try:
                key = await self._routable(match)
            except TimeoutError:
                detail = f"no Revision of {match.route} was there within {UNROUTED_TIMEOUT_S:g} s"
                return await send_problem(send, Problem(HTTPStatus.GATEWAY_TIMEOUT, detail, retryable=True))
            if key is None:
                return await self._unknown(host, scope["raw_path"], send)
        revision = self._revisions.get(key) or self._revision(key)
        stats = revision.stats
        if stats.enter(began):
            self._active[key] = revision
            self._on_stats((RevisionStat(key, began, 1.0, 1.0),))
        if self._pool is None:
            raise RuntimeError("the activator was not started")
        exchange = Exchange(
            self._pool,
            clock=self._clock,
            scope=scope,
            receive=receive,
            send=send,
            match=match,
            revision=revision,
        )
        try:
            await exchange.run(began)
        finally:
            now = self._clock()
            stats.leave(now)
            revision.counts.add(exchange.status, now - began)
            if self._ending and self._ending.get(key) is revision and not revision.in_flight:
                del self._ending[key]
        return None

    async def _routable(self, match: Match) -> RevisionKey | None:
        """Wait until a Service has a Revision; None: it was removed instead."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._unrouted.setdefault(match.route, []).append(waiter)
        async with asyncio.timeout(UNROUTED_TIMEOUT_S):
            return match.route.choose() if await waiter else None

    async def _unknown(self, host: bytes, raw_path: bytes, send: Send) -> None:
        if raw_path == b"/healthz":
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            return await send({"type": "http.response.body", "body": b"ok"})
        names = self._routes.names()
        detail = (
            f"no Service answers at host {host.decode('latin-1')!r}, path {raw_path.decode('latin-1')!r};"
            " a Service answers at http://NAME.NAMESPACE.localhost/ and at the path /NAMESPACE/NAME/"
        )
        more = known_services(names)
        return await send_problem(send, Problem(HTTPStatus.NOT_FOUND, detail, more=more))

    def _wake(self, route: Route, *, routable: bool) -> None:
        for waiter in self._unrouted.pop(route, ()):
            if not waiter.done():
                waiter.set_result(routable)

    def _known(self, key: RevisionKey) -> Revision | None:
        return self._revisions.get(key) or self._ending.get(key)

    def _pod(self, key: RevisionKey, name: str) -> Pod | None:
        for revisions in (self._revisions, self._ending):
            if key in revisions and (found := revisions[key].pod(name)) is not None:
                return found
        return None

    def _revision(self, key: RevisionKey) -> Revision:
        revision = self._revisions.get(key)
        if revision is None:
            revision = self._revisions[key] = Revision(
                RevisionSpec(key, key.name), self._clock, self._queue_depth
            )
        return revision

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            now = self._clock()
            stats = []
            for key, revision in tuple(self._active.items()):
                stats.append(revision.stats.report(key, now))
                if not revision.stats.active:
                    del self._active[key]
            if stats:
                self._on_stats(stats)
