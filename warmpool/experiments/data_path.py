"""The data path of one Revision in virtual time: arrivals, the activator's queue, slots, departures, warmth.

Compiled by Numba, as `kernels` is and for the same reason: there are millions of requests. Arguments are
positional; the simulator says what they mean.

A replica is a column of `pods` for as long as it is there; what it has cost by then is in `spent`. A replica
that rests below hot is hot from its first request on, and rests again after `idle_after_s` without one.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_jit: Any = numba.njit(cache=True)

# Rows of `pods`, one column for each replica: state; instants at which it is ready, became busy and is hot
# again; requests in it; since when it is idle, and how warm it was then; its resting warmth; its node.
POD_STATE, POD_CREATED, POD_READY_AT, POD_IN_FLIGHT, POD_BUSY_SINCE = 0, 1, 2, 3, 4
POD_HOT_AT, POD_IDLE_SINCE, POD_IDLE_WARMTH, POD_RESTING, POD_NODE = 5, 6, 7, 8, 9
POD_ROWS: Final = 10
ABSENT, STARTING, READY, TERMINATING, DRAINED = 0.0, 1.0, 2.0, 3.0, 4.0
HOT, ASLEEP, STANDBY = 0, 1, 2

# Entries of `counters`.
NEXT_ARRIVAL, KNOWN_ARRIVALS, QUEUE_HEAD, QUEUE_TAIL, HEAP_SIZE, LEFT = 0, 1, 2, 3, 4, 5
ROUND_ROBIN, POD_COUNT, IN_FLIGHT, STARTING_PODS, READY_PODS = 6, 7, 8, 9, 10
COUNTERS: Final = 11

# Entries of `spent`: replica-seconds, idle ones by warmth (hot, asleep, standby); and the next start's end.
STARTING_S, BUSY_S, WAKING_S, IDLE_S, NEXT_READY = 0, 1, 2, 3, 6
SPENT: Final = 7

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
    count = counters[POD_COUNT]
    if limit == 0:
        a = b = -1
        seen = 0
        for pod in range(count):
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
        for pod in range(count):
            if pods[POD_STATE, pod] == READY and pods[POD_IN_FLIGHT, pod] < limit:
                return pod
        return -1
    start = counters[ROUND_ROBIN]
    for step in range(count):
        pod = (start + step) % count
        if pods[POD_STATE, pod] == READY and pods[POD_IN_FLIGHT, pod] < limit:
            counters[ROUND_ROBIN] = pod + 1
            return pod
    return -1


@_jit
def _warmth(pods: Floats, pod: int, idle_after_s: float, now: float) -> Any:
    """How warm an idle replica is."""
    resting = int(pods[POD_RESTING, pod])
    if resting == HOT or pods[POD_IDLE_WARMTH, pod] != HOT:
        return int(pods[POD_IDLE_WARMTH, pod])
    return resting if now - pods[POD_IDLE_SINCE, pod] >= idle_after_s else HOT


@_jit
def _settle_idle(pods: Floats, pod: int, idle_after_s: float, spent: Floats, now: float) -> None:
    """Account for the idle time of a replica up to now."""
    idle = now - pods[POD_IDLE_SINCE, pod]
    if idle < 0.0:  # it still wakes by order, which was accounted for to its end
        spent[WAKING_S] += idle
        return
    warmth = int(pods[POD_IDLE_WARMTH, pod])
    resting = int(pods[POD_RESTING, pod])
    if warmth == HOT and resting != HOT and idle > idle_after_s:
        spent[IDLE_S + HOT] += idle_after_s
        spent[IDLE_S + resting] += idle - idle_after_s
    else:
        spent[IDLE_S + warmth] += idle


@_jit
def advance(
    arrivals: Floats,
    service_s: Floats,
    slowdown: float,
    limit: int,
    wake_s: Floats,
    idle_after_s: float,
    pods: Floats,
    queue: Ints,
    heap: Floats,
    counters: Ints,
    spent: Floats,
    waited_s: Floats,
    served_s: Floats,
    cold: npt.NDArray[np.bool_],
    woke: npt.NDArray[np.bool_],
    left: Ints,
    begin: float,
    end: float,
) -> tuple[float, int, int, int, int, int, int, int]:
    """Let the data path run from one instant to another, in place.

    Args:
        arrivals: (n,) of all requests, seconds; those that are known so far are counted.
        service_s: (n,) with one request in the replica.
        slowdown: share by which each further request in a replica lengthens a request that begins there.
        limit: container concurrency; 0: none.
        wake_s: (3,) from each warmth to hot.
        idle_after_s: after so long without a request a replica returns to its resting warmth.
        pods: (POD_ROWS, replicas).
        queue: (n,) requests that wait for a slot, between two counters.
        heap: (3, n) departures: instant, replica, request.
        counters: (COUNTERS,).
        spent: (SPENT,).
        waited_s: (n,) out: from arrival to the beginning of service.
        served_s: (n,) out: from there to the end.
        cold: (n,) out: whether the request waited for a replica to start.
        woke: (n,) out: whether it waited for a replica to wake.
        left: (n,) out: requests in the order in which they left.
        begin: from here, s.
        end: until here, s; events at `end` belong to the next call.

    Returns:
        The time-weighted mean of requests in flight, those that wait included; how many arrived; the highest
        number at once; the number at the end; ready and starting replicas at the end; how many requests began
        after a cold start; replicas that have drained.
    """
    now = begin
    area = 0.0
    arrived = colds = drained = 0
    inside = counters[IN_FLIGHT] + counters[QUEUE_TAIL] - counters[QUEUE_HEAD]
    most = inside
    while True:
        then = end
        kind = 0
        if counters[HEAP_SIZE] and heap[0, 0] < then:
            then, kind = heap[0, 0], 1
        if spent[NEXT_READY] < then:
            then, kind = spent[NEXT_READY], 2
        if counters[NEXT_ARRIVAL] < counters[KNOWN_ARRIVALS] and arrivals[counters[NEXT_ARRIVAL]] < then:
            then, kind = arrivals[counters[NEXT_ARRIVAL]], 3
        then = max(then, now)
        area += inside * (then - now)
        now = then
        if kind == 0:
            break
        if kind == 1:
            pod = int(heap[1, 0])
            left[counters[LEFT]] = int(heap[2, 0])
            counters[LEFT] += 1
            _pop(heap, counters[HEAP_SIZE])
            counters[HEAP_SIZE] -= 1
            counters[IN_FLIGHT] -= 1
            inside -= 1
            pods[POD_IN_FLIGHT, pod] -= 1
            if pods[POD_IN_FLIGHT, pod] == 0:
                spent[BUSY_S] += now - pods[POD_BUSY_SINCE, pod]
                pods[POD_IDLE_SINCE, pod] = now
                pods[POD_IDLE_WARMTH, pod] = HOT
                if pods[POD_STATE, pod] == TERMINATING:
                    pods[POD_STATE, pod] = DRAINED
                    drained += 1
        elif kind == 2:
            following = np.inf
            for pod in range(counters[POD_COUNT]):
                if pods[POD_STATE, pod] != STARTING:
                    continue
                if pods[POD_READY_AT, pod] <= now:
                    pods[POD_STATE, pod] = READY
                    pods[POD_IDLE_SINCE, pod] = now
                    pods[POD_IDLE_WARMTH, pod] = pods[POD_RESTING, pod]
                    spent[STARTING_S] += pods[POD_READY_AT, pod] - pods[POD_CREATED, pod]
                    counters[STARTING_PODS] -= 1
                    counters[READY_PODS] += 1
                else:
                    following = min(following, pods[POD_READY_AT, pod])
            spent[NEXT_READY] = following
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
                _settle_idle(pods, pod, idle_after_s, spent, now)
                if pods[POD_IDLE_SINCE, pod] <= now:
                    waking = wake_s[_warmth(pods, pod, idle_after_s, now)]
                    spent[WAKING_S] += waking
                    pods[POD_HOT_AT, pod] = now + waking
                else:  # it still wakes by order, maybe not to hot
                    pods[POD_HOT_AT, pod] += wake_s[int(pods[POD_IDLE_WARMTH, pod])]
                    spent[WAKING_S] += pods[POD_HOT_AT, pod] - now
                pods[POD_BUSY_SINCE, pod] = pods[POD_HOT_AT, pod]
            began = max(now, pods[POD_HOT_AT, pod])
            took = service_s[request] * (1 + slowdown * pods[POD_IN_FLIGHT, pod])
            pods[POD_IN_FLIGHT, pod] += 1
            waited_s[request] = began - arrivals[request]
            served_s[request] = took
            woke[request] = began > now
            if pods[POD_READY_AT, pod] > arrivals[request]:
                cold[request] = True
                colds += 1
            _push(heap, counters[HEAP_SIZE], began + took, pod, request)
            counters[HEAP_SIZE] += 1
    mean = area / (end - begin) if end > begin else 0.0
    return mean, arrived, most, inside, counters[READY_PODS], counters[STARTING_PODS], colds, drained


@_jit
def create(
    pods: Floats, counters: Ints, spent: Floats, now: float, ready_at: float, resting: int, node: int
) -> None:
    """Add a replica that is ready at an instant; there must be a column for it."""
    pod = counters[POD_COUNT]
    pods[:, pod] = 0.0
    pods[POD_STATE, pod] = STARTING
    pods[POD_CREATED, pod] = now
    pods[POD_READY_AT, pod] = ready_at
    pods[POD_RESTING, pod] = resting
    pods[POD_NODE, pod] = node
    spent[NEXT_READY] = min(spent[NEXT_READY], ready_at)
    counters[POD_COUNT] += 1
    counters[STARTING_PODS] += 1


@_jit
def remove(pods: Floats, counters: Ints, spent: Floats, idle_after_s: float, now: float) -> int:
    """Remove one replica: the youngest, those that still start before those that are ready; busy ones drain.

    Returns:
        Its column if it is gone, -1 if it drains, -2 if there is none.
    """
    for state in (STARTING, READY):
        for pod in range(counters[POD_COUNT] - 1, -1, -1):
            if pods[POD_STATE, pod] != state:
                continue
            if state == READY:
                counters[READY_PODS] -= 1
                if pods[POD_IN_FLIGHT, pod]:
                    pods[POD_STATE, pod] = TERMINATING
                    return -1
                _settle_idle(pods, pod, idle_after_s, spent, now)
                pods[POD_STATE, pod] = ABSENT
                return pod
            counters[STARTING_PODS] -= 1
            spent[STARTING_S] += now - pods[POD_CREATED, pod]
            pods[POD_STATE, pod] = ABSENT
            spent[NEXT_READY] = np.inf
            for other in range(counters[POD_COUNT]):
                if pods[POD_STATE, other] == STARTING:
                    spent[NEXT_READY] = min(spent[NEXT_READY], pods[POD_READY_AT, other])
            return pod
    return -2


@_jit
def rest(
    pods: Floats, pod: int, warmth: int, wake_s: Floats, idle_after_s: float, spent: Floats, now: float
) -> None:
    """Order a ready replica to another resting warmth: up at once, down as soon as it is idle."""
    if pods[POD_IN_FLIGHT, pod] == 0 and pods[POD_IDLE_SINCE, pod] <= now:
        _settle_idle(pods, pod, idle_after_s, spent, now)
        found = _warmth(pods, pod, idle_after_s, now)
        waking = max(0.0, wake_s[found] - wake_s[warmth])
        spent[WAKING_S] += waking
        pods[POD_HOT_AT, pod] = pods[POD_IDLE_SINCE, pod] = now + waking
        pods[POD_IDLE_WARMTH, pod] = warmth
    pods[POD_RESTING, pod] = warmth


@_jit
def compact(pods: Floats, heap: Floats, counters: Ints) -> None:
    """Forget the replicas that are gone, in place; the others keep their order."""
    moved = np.zeros(counters[POD_COUNT], np.int64)
    kept = 0
    for pod in range(counters[POD_COUNT]):
        if pods[POD_STATE, pod] != ABSENT:
            moved[pod] = kept
            pods[:, kept] = pods[:, pod]
            kept += 1
    for index in range(counters[HEAP_SIZE]):
        heap[1, index] = moved[int(heap[1, index])]
    counters[POD_COUNT] = kept


@_jit
def close(pods: Floats, counters: Ints, spent: Floats, idle_after_s: float, now: float) -> None:
    """Account for what is still there at the end."""
    for pod in range(counters[POD_COUNT]):
        state = pods[POD_STATE, pod]
        if state == STARTING:
            spent[STARTING_S] += now - pods[POD_CREATED, pod]
        elif state in (READY, TERMINATING):
            if pods[POD_IN_FLIGHT, pod]:
                spent[BUSY_S] += now - pods[POD_BUSY_SINCE, pod]
            else:
                _settle_idle(pods, pod, idle_after_s, spent, now)
        pods[POD_STATE, pod] = ABSENT
