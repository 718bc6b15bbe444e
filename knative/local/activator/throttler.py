"""One Revision's replicas, and the queue of requests that wait for a slot on one of them.

After pkg/activator/net/throttler.go, lb_policy.go and pkg/queue/breaker.go of Knative Serving. Without a
container concurrency, a request goes to the less loaded of two replicas chosen at random; up to a container
concurrency of 3, to the first replica with a free slot in the order of their addresses (so that the last
ones become idle); above 3, round robin. A request is assigned to a replica only when a slot is free, so one
that waits takes the first slot that becomes free anywhere.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from knative.local.activator.recent_requests import RecentRequests
from knative.local.activator.request_stats import RequestStats
from knative.local.activator.response_counts import ResponseCounts
from knative.local.routing import Endpoint, RevisionSpec, StartFailure
from transport.pool import Address, TlsAddress
from transport.retry_budget import RetryBudget

QUEUE_DEPTH = 10_000
FIRST_AVAILABLE_UP_TO = 3
QUARANTINE_S = 0.2
"""How long a replica that refused a connection gets no request."""
BURST = 64
"""Waiting requests released in one turn of the event loop, so that a full queue does not block it."""


class QueueFullError(Exception):
    """As many requests wait for this Revision as may."""


class RevisionRemovedError(Exception):
    """The Revision was removed, or the activator stops: no replica will come."""


class StartFailedError(Exception):
    """The Revision's replicas do not start."""

    def __init__(self, failure: StartFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class PodTracker:
    """One replica: its requests in flight, and how long it has been busy."""

    __slots__ = ("address", "busy_s", "busy_since", "drained", "endpoint", "in_flight", "leaving", "upgraded")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.address: Address = (endpoint.host, endpoint.port)
        if endpoint.tls:
            self.address = TlsAddress(endpoint.host, endpoint.port)
        self.in_flight = 0
        self.busy_since = 0.0
        self.busy_s = 0.0
        """Seconds with at least one request in flight, up to the last time that there was none."""
        self.leaving = False
        """It gets no new requests."""
        self.upgraded = 0
        """Those requests in flight whose connections have switched protocols (WebSockets)."""
        self.drained: list[asyncio.Future[None]] = []
        """Resolved when no ordinary request is in flight."""

    @property
    def is_drained(self) -> bool:
        """Whether no ordinary request is in flight.

        Upgraded connections do not end by themselves. As on a cluster, where the queue-proxy does not see
        them, the replica is asked to stop while they are open and can close them properly.
        """
        return self.in_flight == self.upgraded

    def tell_drained(self) -> None:
        """Resolve the futures of `drained` if it is."""
        if self.drained and self.is_drained:
            for waiter in self.drained:
                if not waiter.done():
                    waiter.set_result(None)
            self.drained.clear()


class RevisionThrottler:
    """Assigns requests for one Revision to its replicas, at most `containerConcurrency` to each at a time.

    Args:
        spec: the Revision.
        clock: seconds, monotonic.
        queue_depth: how many requests may wait.
    """

    def __init__(
        self, spec: RevisionSpec, clock: Callable[[], float], queue_depth: int = QUEUE_DEPTH
    ) -> None:
        self._queue_depth = queue_depth
        self.spec = spec
        self.stats = RequestStats()
        self.counts = ResponseCounts()
        self.retries = RetryBudget()
        self.recent = RecentRequests(clock())
        self.waiting = 0
        self._clock = clock
        self._pods: list[PodTracker] = []
        self._usable: list[PodTracker] = []
        self._leaving: dict[str, PodTracker] = {}
        self._waiters: deque[asyncio.Future[PodTracker]] = deque()
        self._gone_busy_s = 0.0
        self._next = 0
        self._releasing = False
        self._removed = False
        self._failure: StartFailure | None = None
        self._awaited_since: float | None = None
        self.last_start_s: float | None = None
        """Seconds for which the first request waited for the last start from zero; None before it."""
        self.abandoned = 0
        """Requests whose client gave up while they waited for a start."""

    # replicas

    @property
    def failure(self) -> StartFailure | None:
        """Why a request sent now would not be answered; None where it would, if need be after a start."""
        return None if self._pods else self._failure

    @property
    def has_replicas(self) -> bool:
        """Whether a replica is ready."""
        return bool(self._pods)

    def set_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Replace the set of ready replicas."""
        known = {pod.endpoint: pod for pod in self._pods}
        usable = set(self._usable)
        fresh = [known.pop(end) if end in known else self._returning(end) for end in set(endpoints)]
        fresh.sort(key=lambda pod: (pod.endpoint.host, pod.endpoint.port, pod.endpoint.pod))
        quarantined = set(self._pods) - usable
        for pod in known.values():
            pod.leaving = True
            if pod.in_flight:
                self._leaving[pod.endpoint.pod] = pod
            else:
                self._gone_busy_s += pod.busy_s
        if fresh and self._awaited_since is not None:
            self.last_start_s = self._clock() - self._awaited_since
            self._awaited_since = None
        self._pods = fresh
        self._usable = [pod for pod in fresh if pod not in quarantined]
        self.set_failure(self._failure)
        self.release_waiters()

    def _returning(self, endpoint: Endpoint) -> PodTracker:
        """The tracker of a replica that is ready again and still answers requests; else a new one."""
        pod = self._leaving.get(endpoint.pod)
        if pod is None or pod.endpoint != endpoint:
            return PodTracker(endpoint)
        del self._leaving[endpoint.pod]
        pod.leaving = False
        return pod

    def quarantine(self, pod: PodTracker) -> None:
        """Give a replica that refused a connection no request for `QUARANTINE_S`."""
        if pod in self._usable:
            self._usable.remove(pod)
            asyncio.get_running_loop().call_later(QUARANTINE_S, self._end_quarantine, pod)

    def _end_quarantine(self, pod: PodTracker) -> None:
        if pod in self._pods and pod not in self._usable:
            self._usable = [other for other in self._pods if other is pod or other in self._usable]
            self.release_waiters()

    def pod(self, name: str) -> PodTracker | None:
        """A replica by name, also one that gets no new requests."""
        for pod in self._pods:
            if pod.endpoint.pod == name:
                return pod
        return self._leaving.get(name)

    def busy_seconds(self) -> float:
        """Seconds with at least one request in flight, summed over all replicas that ever existed."""
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

    def acquire(self, avoid: PodTracker | None = None) -> PodTracker | None:
        """A slot, if one is free and no request waits for one; not on `avoid` if there is another replica."""
        if self._waiters:
            return None
        pod = self._pick(avoid)
        if pod is not None:
            self._occupy(pod)
        return pod

    async def wait(self) -> PodTracker:
        """A slot, as soon as one is free.

        Raises:
            QueueFullError: too many requests wait already.
            RevisionRemovedError: the Revision was removed.
            StartFailedError: its replicas do not start.
        """
        if self._removed:
            raise RevisionRemovedError
        if self._failure is not None and not self._pods:
            raise StartFailedError(self._failure)
        if self.waiting >= self._queue_depth:
            raise QueueFullError
        waiter: asyncio.Future[PodTracker] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.waiting += 1
        if not self._pods and self._awaited_since is None:
            self._awaited_since = self._clock()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())  # the slot came in the same turn as the cancellation
            elif not self._pods:
                self.abandoned += 1
            raise
        finally:
            self.waiting -= 1
            if len(self._waiters) > 2 * self.waiting + BURST:  # mostly cancelled ones
                self._waiters = deque(waiter for waiter in self._waiters if not waiter.done())

    def release(self, pod: PodTracker) -> None:
        """Give a slot back."""
        pod.in_flight -= 1
        pod.tell_drained()
        if not pod.in_flight:
            pod.busy_s += self._clock() - pod.busy_since
            if pod.leaving and self._leaving.pop(pod.endpoint.pod, None) is not None:
                self._gone_busy_s += pod.busy_s
        if self._waiters:
            self.release_waiters()

    def release_waiters(self) -> None:
        """Hand free slots to waiting requests, oldest first."""
        self._releasing = False
        for _ in range(BURST):
            while self._waiters and self._waiters[0].done():
                self._waiters.popleft()
            if not self._waiters:
                return
            pod = self._pick()
            if pod is None:
                return
            self._occupy(pod)
            self._waiters.popleft().set_result(pod)
        if self._waiters and not self._releasing:
            self._releasing = True
            asyncio.get_running_loop().call_soon(self.release_waiters)

    def abandon(self) -> None:
        """Fail all waiting requests, and those that would wait from now on, with `RevisionRemovedError`."""
        self._removed = True
        self._fail_waiters(RevisionRemovedError)

    def set_failure(self, failure: StartFailure | None) -> None:
        """Set why replicas do not start: without any, requests fail with `StartFailedError` at once."""
        self._failure = failure
        if failure is not None and not self._pods:
            self._fail_waiters(lambda: StartFailedError(failure))

    def _fail_waiters(self, error: Callable[[], Exception]) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error())

    def _occupy(self, pod: PodTracker) -> None:
        if not pod.in_flight:
            pod.busy_since = self._clock()
        pod.in_flight += 1

    def _pick(self, avoid: PodTracker | None = None) -> PodTracker | None:
        pods, limit = self._usable, self.spec.container_concurrency
        if avoid is not None and len(pods) > 1:
            pods = [pod for pod in pods if pod is not avoid]
        if not pods:
            return None
        if limit == 0:
            return pods[0] if len(pods) == 1 else min(random.sample(pods, 2), key=_in_flight)
        if limit <= FIRST_AVAILABLE_UP_TO:
            return next((pod for pod in pods if pod.in_flight < limit), None)
        start = self._next if self._next < len(pods) else 0
        for at in range(start, start + len(pods)):
            pod = pods[at % len(pods)]
            if pod.in_flight < limit:
                self._next = at % len(pods) + 1
                return pod
        return None


def _in_flight(pod: PodTracker) -> int:
    return pod.in_flight
