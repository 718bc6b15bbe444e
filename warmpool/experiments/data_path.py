"""The data path of one Revision in virtual time: arrivals, the activator's queue, slots, departures.

Compiled by Numba, as `kernels` is and for the same reason: there are millions of requests. Arguments are
positional; the simulator says what they mean.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_jit: Any = numba.njit(cache=True)

# The data path of one Revision: rows of `pods`, one column for each replica there ever was.
POD_STATE, POD_CREATED, POD_READY_AT, POD_IN_FLIGHT, POD_BUSY_SINCE, POD_BUSY_S, POD_GONE = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
)
POD_ROWS: Final = 7
ABSENT, STARTING, READY, TERMINATING, DRAINED = 0.0, 1.0, 2.0, 3.0, 4.0

# Entries of `counters`.
NEXT_ARRIVAL, QUEUE_HEAD, QUEUE_TAIL, HEAP_SIZE, ROUND_ROBIN, POD_COUNT, OLDEST_POD = 0, 1, 2, 3, 4, 5, 6
IN_FLIGHT, COLD, STARTING_PODS, READY_PODS, DRAINED_PODS = 7, 8, 9, 10, 11
COUNTERS: Final = 12
FIRST_AVAILABLE_UP_TO: Final = 3
"""Up to this container concurrency the first replica with a free slot is taken, above it the next in turn."""


@_jit
def seed(value: int) -> None:
    """Seed the generator that the compiled functions draw from."""
    np.random.seed(value)


@_jit
def _push(heap: Floats, size: int, time: float, pod: int, request: int) -> None:
    index = size
    while index > 0:
        parent = (index - 1) // 2
        if heap[0, parent] <= time:
            break
        heap[:, index] = heap[:, parent]
        index = parent
    heap[0, index] = time
    heap[1, index] = pod
    heap[2, index] = request


@_jit
def _pop(heap: Floats, size: int) -> None:
    last = size - 1
    time, pod, request = heap[0, last], heap[1, last], heap[2, last]
    index = 0
    while True:
        child = 2 * index + 1
        if child >= last:
            break
        if child + 1 < last and heap[0, child + 1] < heap[0, child]:
            child += 1
        if heap[0, child] >= time:
            break
        heap[:, index] = heap[:, child]
        index = child
    heap[0, index] = time
    heap[1, index] = pod
    heap[2, index] = request


@_jit
def _pick(pods: Floats, counters: Ints, limit: int) -> Any:
    """The replica that takes a request, as Knative's activator chooses it; -1: none has a free slot."""
    first, count = counters[OLDEST_POD], counters[POD_COUNT]
    if limit == 0:
        a = b = -1
        seen = 0
        for pod in range(first, count):
            if pods[POD_STATE, pod] == READY:
                seen += 1
                # Two of them at random, each pair as likely as any other (reservoir sampling).
                if seen == 1:
                    a = pod
                elif seen == 2:
                    b = pod
                else:
                    at = np.random.randint(seen)
                    if at == 0:
                        a = pod
                    elif at == 1:
                        b = pod
        if b < 0:
            return a
        if pods[POD_IN_FLIGHT, a] == pods[POD_IN_FLIGHT, b]:
            return a if np.random.random() < 0.5 else b
        return a if pods[POD_IN_FLIGHT, a] < pods[POD_IN_FLIGHT, b] else b
    if limit <= FIRST_AVAILABLE_UP_TO:
        for pod in range(first, count):
            if pods[POD_STATE, pod] == READY and pods[POD_IN_FLIGHT, pod] < limit:
                return pod
        return -1
    width = count - first
    start = counters[ROUND_ROBIN]
    for step in range(width):
        pod = first + (start + step) % width
        if pods[POD_STATE, pod] == READY and pods[POD_IN_FLIGHT, pod] < limit:
            counters[ROUND_ROBIN] = (start + step) % width + 1
            return pod
    return -1


@_jit
def advance(
    arrivals: Floats,
    service_s: Floats,
    slowdown: float,
    limit: int,
    pods: Floats,
    queue: Ints,
    heap: Floats,
    counters: Ints,
    waited_s: Floats,
    served_s: Floats,
    cold: npt.NDArray[np.bool_],
    begin: float,
    end: float,
) -> tuple[float, int, int]:
    """Let the data path run from one instant to another, in place.

    Args:
        arrivals: (n,) of all requests, seconds.
        service_s: (n,) with one request in the replica.
        slowdown: share by which each further request in a replica lengthens a request that begins there.
        limit: container concurrency; 0: none.
        pods: (POD_ROWS, replicas).
        queue: (n,) requests that wait for a slot, between two counters.
        heap: (3, n) departures: instant, replica, request.
        counters: (COUNTERS,).
        waited_s: (n,) out: from arrival to a slot.
        served_s: (n,) out: from a slot to the end.
        cold: (n,) out: whether the request waited for a replica to start.
        begin: from here, s.
        end: until here, s; events at `end` belong to the next call.

    Returns:
        The time-weighted mean of requests in flight, those that wait included; how many arrived; the highest
        number at once.
    """
    now = begin
    area = 0.0
    arrived = 0
    inside = counters[IN_FLIGHT] + counters[QUEUE_TAIL] - counters[QUEUE_HEAD]
    most = inside
    while True:
        then = end
        kind = 0
        if counters[HEAP_SIZE] and heap[0, 0] < then:
            then, kind = heap[0, 0], 1
        if counters[STARTING_PODS]:
            for pod in range(counters[OLDEST_POD], counters[POD_COUNT]):
                if pods[POD_STATE, pod] == STARTING and pods[POD_READY_AT, pod] < then:
                    then, kind = pods[POD_READY_AT, pod], 2
        if counters[NEXT_ARRIVAL] < len(arrivals) and arrivals[counters[NEXT_ARRIVAL]] < then:
            then, kind = arrivals[counters[NEXT_ARRIVAL]], 3
        then = max(then, now)
        area += inside * (then - now)
        now = then
        if kind == 0:
            break
        if kind == 1:
            pod = int(heap[1, 0])
            _pop(heap, counters[HEAP_SIZE])
            counters[HEAP_SIZE] -= 1
            counters[IN_FLIGHT] -= 1
            inside -= 1
            pods[POD_IN_FLIGHT, pod] -= 1
            if pods[POD_IN_FLIGHT, pod] == 0:
                pods[POD_BUSY_S, pod] += now - pods[POD_BUSY_SINCE, pod]
                if pods[POD_STATE, pod] == TERMINATING:
                    pods[POD_STATE, pod] = DRAINED
                    counters[DRAINED_PODS] += 1
                    pods[POD_GONE, pod] = now
        elif kind == 2:
            for pod in range(counters[OLDEST_POD], counters[POD_COUNT]):
                if pods[POD_STATE, pod] == STARTING and pods[POD_READY_AT, pod] <= now:
                    pods[POD_STATE, pod] = READY
                    counters[STARTING_PODS] -= 1
                    counters[READY_PODS] += 1
        else:
            queue[counters[QUEUE_TAIL]] = counters[NEXT_ARRIVAL]
            counters[QUEUE_TAIL] += 1
            counters[NEXT_ARRIVAL] += 1
            arrived += 1
            inside += 1
            most = max(most, inside)
        while counters[QUEUE_HEAD] < counters[QUEUE_TAIL]:
            pod = _pick(pods, counters, limit)
            if pod < 0:
                break
            request = queue[counters[QUEUE_HEAD]]
            counters[QUEUE_HEAD] += 1
            counters[IN_FLIGHT] += 1
            if pods[POD_IN_FLIGHT, pod] == 0:
                pods[POD_BUSY_SINCE, pod] = now
            took = service_s[request] * (1 + slowdown * pods[POD_IN_FLIGHT, pod])
            pods[POD_IN_FLIGHT, pod] += 1
            waited_s[request] = now - arrivals[request]
            served_s[request] = took
            if pods[POD_READY_AT, pod] > arrivals[request]:
                cold[request] = True
                counters[COLD] += 1
            _push(heap, counters[HEAP_SIZE], now + took, pod, request)
            counters[HEAP_SIZE] += 1
    return (area / (end - begin) if end > begin else 0.0), arrived, most
