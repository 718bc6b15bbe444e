"""One Revision's replicas and the requests that wait for a place on one of them.

After pkg/activator/net/throttler.go, lb_policy.go and pkg/queue/breaker.go: with no container concurrency
the less busy of two replicas at random, up to 3 the first with a free slot (so that low addresses stay busy
and high ones idle), above 3 round robin. A request is bound to a replica only when a slot is free, so one
that waits takes the first slot that frees anywhere.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from knative.local.activator.metrics import Counts
from knative.local.activator.reporter import RequestStats
from knative.local.routing import Endpoint, RevisionSpec

QUEUE_DEPTH = 10_000
FIRST_AVAILABLE_UP_TO = 3
SUSPECT_S = 0.2
"""How long a replica that refused a connection gets no request."""
BURST = 64
"""Waiting requests released in one turn of the event loop, so that a full queue does not hold it up."""


class QueueFullError(Exception):
    """As many requests wait for this Revision as may."""


class GoneError(Exception):
    """What a request waited for was removed."""


class Pod:
    """A replica: what it is answering and how long it has been busy."""

    __slots__ = ("address", "busy_s", "busy_since", "endpoint", "idle", "in_flight", "leaving")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.address = (endpoint.host, endpoint.port)
        self.in_flight = 0
        self.busy_since = 0.0
        self.busy_s = 0.0
        self.leaving = False
        self.idle: list[asyncio.Future[None]] = []


class Revision:
    """The activator's view of one Revision."""

    def __init__(
        self, spec: RevisionSpec, clock: Callable[[], float], queue_depth: int = QUEUE_DEPTH
    ) -> None:
        self._queue_depth = queue_depth
        self.spec = spec
        self.stats = RequestStats()
        self.counts = Counts()
        self.waiting = 0
        self._clock = clock
        self._pods: list[Pod] = []
        self._usable: list[Pod] = []
        self._leaving: dict[str, Pod] = {}
        self._waiters: deque[asyncio.Future[Pod]] = deque()
        self._gone_busy_s = 0.0
        self._next = 0
        self._releasing = False
        self._abandoned = False

    # replicas

    def set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Replace the replicas that get requests."""
        known = {pod.endpoint: pod for pod in self._pods}
        usable = set(self._usable)
        fresh = [known.pop(end) if end in known else self._returning(end) for end in set(endpoints)]
        fresh.sort(key=lambda pod: (pod.endpoint.host, pod.endpoint.port, pod.endpoint.pod))
        suspects = set(self._pods) - usable
        for pod in known.values():
            pod.leaving = True
            if pod.in_flight:
                self._leaving[pod.endpoint.pod] = pod
            else:
                self._gone_busy_s += pod.busy_s
        self._pods = fresh
        self._usable = [pod for pod in fresh if pod not in suspects]
        self.release_waiters()

    def _returning(self, endpoint: Endpoint) -> Pod:
        """A replica that is ready again goes on with what it is answering; else a new one."""
        pod = self._leaving.get(endpoint.pod)
        if pod is None or pod.endpoint != endpoint:
            return Pod(endpoint)
        del self._leaving[endpoint.pod]
        pod.leaving = False
        return pod

    def suspect(self, pod: Pod) -> None:
        """Give a replica that refused a connection no request for a moment."""
        if pod in self._usable:
            self._usable.remove(pod)
            asyncio.get_running_loop().call_later(SUSPECT_S, self._trust, pod)

    def _trust(self, pod: Pod) -> None:
        if pod in self._pods and pod not in self._usable:
            self._usable = [other for other in self._pods if other is pod or other in self._usable]
            self.release_waiters()

    def pod(self, name: str) -> Pod | None:
        """A replica by name, one that is leaving included."""
        for pod in self._pods:
            if pod.endpoint.pod == name:
                return pod
        return self._leaving.get(name)

    def busy_seconds(self) -> float:
        """Seconds with at least one request in flight, summed over all replicas there ever were."""
        now = self._clock()
        total = self._gone_busy_s
        for pod in (*self._pods, *self._leaving.values()):
            total += pod.busy_s + (now - pod.busy_since if pod.in_flight else 0.0)
        return total

    @property
    def in_flight(self) -> int:
        """Requests that replicas are answering."""
        return sum(pod.in_flight for pod in (*self._pods, *self._leaving.values()))

    # slots

    def acquire(self, avoid: Pod | None = None) -> Pod | None:
        """A slot, if one is free and nobody waits for one; not at the replica `avoid` if there is another."""
        if self._waiters:
            return None
        pod = self._pick(avoid)
        if pod is not None:
            self._enter(pod)
        return pod

    async def wait(self) -> Pod:
        """A slot, as soon as one is free.

        Raises:
            QueueFullError: too many wait already.
            GoneError: the Revision was removed meanwhile.
        """
        if self._abandoned:
            raise GoneError
        if self.waiting >= self._queue_depth:
            raise QueueFullError
        waiter: asyncio.Future[Pod] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.waiting += 1
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave(waiter.result())  # the slot came in the same turn as the cancellation
            raise
        finally:
            self.waiting -= 1
            if len(self._waiters) > 2 * self.waiting + BURST:  # mostly those who went away
                self._waiters = deque(waiter for waiter in self._waiters if not waiter.done())

    def leave(self, pod: Pod) -> None:
        """Give a slot back."""
        pod.in_flight -= 1
        if not pod.in_flight:
            pod.busy_s += self._clock() - pod.busy_since
            if pod.idle:
                for waiter in pod.idle:
                    if not waiter.done():
                        waiter.set_result(None)
                pod.idle.clear()
            if pod.leaving and self._leaving.pop(pod.endpoint.pod, None) is not None:
                self._gone_busy_s += pod.busy_s
        if self._waiters:
            self.release_waiters()

    def release_waiters(self) -> None:
        """Hand free slots to those who wait, oldest first."""
        self._releasing = False
        for _ in range(BURST):
            while self._waiters and self._waiters[0].done():
                self._waiters.popleft()
            if not self._waiters:
                return
            pod = self._pick()
            if pod is None:
                return
            self._enter(pod)
            self._waiters.popleft().set_result(pod)
        if self._waiters and not self._releasing:
            self._releasing = True
            asyncio.get_running_loop().call_soon(self.release_waiters)

    def abandon(self) -> None:
        """Tell all who wait, or will, that the Revision is gone."""
        self._abandoned = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(GoneError())

    def _enter(self, pod: Pod) -> None:
        if not pod.in_flight:
            pod.busy_since = self._clock()
        pod.in_flight += 1

    def _pick(self, avoid: Pod | None = None) -> Pod | None:
        pods, limit = self._usable, self.spec.container_concurrency
        if avoid is not None and len(pods) > 1:
            pods = [pod for pod in pods if pod is not avoid]
        if not pods:
            return None
        if limit == 0:
            return pods[0] if len(pods) == 1 else min(random.sample(pods, 2), key=_load)
        if limit <= FIRST_AVAILABLE_UP_TO:
            return next((pod for pod in pods if pod.in_flight < limit), None)
        start = self._next if self._next < len(pods) else 0
        for at in range(start, start + len(pods)):
            pod = pods[at % len(pods)]
            if pod.in_flight < limit:
                self._next = at % len(pods) + 1
                return pod
        return None


def _load(pod: Pod) -> int:
    return pod.in_flight
