"""The activator: the one door for requests, which holds them while a Service has no replica.

`Activator` is a plain ASGI application (`uvicorn.run(activator, loop="uvloop", http="httptools", lifespan="on")`).
Its owner tells it what exists (`set_service`, `set_revision`, `set_endpoints`); it tells the autoscaler what is asked
for (`on_stats`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from knative.local.routing import Endpoint, RevisionKey, RevisionSpec, Split
from knative.local.stats import RevisionStat

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

__all__ = ["Activator"]


class Activator:
    """Routes, holds, limits and proxies requests.

    Everything runs on one event loop; the setters are plain synchronous calls made on that loop and act at once.

    Args:
        on_stats: receives each second's concurrency and request count per Revision, and, at once, a first report when
            a Revision without traffic gets a request (which is what wakes it from zero).
        clock: seconds, monotonic; the autoscaler must share it.
    """

    def __init__(
        self,
        on_stats: Callable[[Sequence[RevisionStat]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_stats = on_stats
        self._clock = clock

    # what exists

    def set_service(self, namespace: str, name: str, splits: Sequence[Split]) -> None:
        """Make a Service answer at its URLs. Empty `splits`: it exists but no Revision is routable yet (held)."""
        raise NotImplementedError

    def remove_service(self, namespace: str, name: str) -> None:
        """Forget a Service: its URLs answer 404; what is in flight ends normally, what waits is answered 404."""
        raise NotImplementedError

    def set_revision(self, spec: RevisionSpec) -> None:
        """Add or change a Revision; a changed container concurrency or timeout holds from the next request on."""
        raise NotImplementedError

    def remove_revision(self, key: RevisionKey) -> None:
        """Forget a Revision; requests that wait for it are answered 503, retryable."""
        raise NotImplementedError

    def set_endpoints(self, key: RevisionKey, endpoints: tuple[Endpoint, ...]) -> None:
        """The replicas of a Revision that are ready now. A replica left out gets no new request."""
        raise NotImplementedError

    # what is going on

    def busy_seconds(self, key: RevisionKey) -> float:
        """Sum over all replicas this Revision ever had of the seconds with at least one request in flight."""
        raise NotImplementedError

    def in_flight(self, key: RevisionKey, pod: str) -> int:
        """Requests that this replica is answering now (also after it was left out of `set_endpoints`)."""
        raise NotImplementedError

    async def drained(self, key: RevisionKey, pod: str, *, timeout_s: float) -> bool:
        """Wait until a replica has no request in flight; False: the time was up first."""
        raise NotImplementedError

    def waiting(self, key: RevisionKey) -> int:
        """Requests held for want of a replica or of a free slot."""
        raise NotImplementedError

    def metrics(self) -> str:
        """Prometheus text with Knative's names, to be served by whoever owns `/metrics`."""
        raise NotImplementedError

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point: lifespan, http and websocket. Without lifespan call `start` and `stop`."""
        raise NotImplementedError

    async def start(self) -> None:
        """Open the connection pool and start reporting each second (lifespan does this under uvicorn)."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Answer what waits with 503, close connections."""
        raise NotImplementedError
