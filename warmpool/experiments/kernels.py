"""Loops that Numba compiles, the policies' own functions among them: the controller runs the same ones.

Kept apart because Numba knows arrays and numbers only: arguments are positional and what they mean is said by
the modules that call, `bound`, `levels`, `policies` and `floors`.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

from warmpool.policy import hazard

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOVE_TICKS: Final = hazard.MOVE_TICKS
_RING: Final = 1024
"""The most replicas that load at once."""

_jit: Any = numba.njit(cache=True)
floor_at = _jit(hazard.floor_at)
tick = _jit(hazard.tick)
scores = _jit(hazard.scores)
count_shadows = _jit(hazard.count_shadows)
move_shadows = _jit(hazard.move_shadows)
price_for = _jit(hazard.price_for)


@_jit
def gaps(arrivals: Floats, departures: Floats) -> tuple[Floats, int]:
    count = len(arrivals)
    idle_since = np.empty(count)
    lengths = np.empty(count)
    idle = found = gone = highest = 0
    for index in range(count):
        while gone < count and departures[gone] <= arrivals[index]:
            idle_since[idle] = departures[gone]
            idle += 1
            gone += 1
        if idle:
            # The replica that became idle last serves next, so that the others can be stopped.
            idle -= 1
            lengths[found] = arrivals[index] - idle_since[idle]
            found += 1
        else:
            highest += 1
    return lengths[:found].copy(), highest


@_jit
def demand(arrivals: Floats, departures: Floats, seconds: int) -> tuple[Ints, Ints, Ints]:
    running = np.zeros(seconds, np.int64)
    peak = np.zeros(seconds, np.int64)
    came = np.zeros(seconds, np.int64)
    count = len(arrivals)
    index = gone = now = 0
    for second in range(seconds):
        most = now
        while True:
            arrives = arrivals[index] if index < count else np.inf
            departs = departures[gone] if gone < count else np.inf
            if min(arrives, departs) >= second + 1:
                break
            if departs <= arrives:
                now -= 1
                gone += 1
            else:
                now += 1
                index += 1
                came[second] += 1
                most = max(most, now)
        running[second] = now
        peak[second] = most
    return running, peak, came


@_jit
def hazard_floors(
    running: Ints, peak: Ints, arrivals: Ints, load_s: float, prices: Floats, capacity: int
) -> Ints:
    moves = len(running) // MOVE_TICKS
    floors = np.zeros((len(prices), moves), np.int64)
    scalars = np.zeros(hazard.SCALARS)
    levels = np.zeros((hazard.LEVEL_ROWS, capacity + 1))
    spells = np.zeros((2, capacity + 1, len(hazard.AGE_BINS)))
    hazards = np.zeros(capacity + 1)
    for move in range(moves):
        for second in range(move * MOVE_TICKS, (move + 1) * MOVE_TICKS):
            tick(scalars, levels, spells, running[second], peak[second], arrivals[second])
        top = scores(scalars, levels, spells, hazards)
        last = (move + 1) * MOVE_TICKS - 1
        for index in range(len(prices)):
            floors[index, move] = floor_at(hazards, top, peak[last], load_s, prices[index])
    return floors


@_jit
def target_floors(
    running: Ints,
    peak: Ints,
    arrivals: Ints,
    load_s: float,
    targets: Floats,
    prices: Floats,
    shadows: Floats,
    capacity: int,
) -> Ints:
    moves = len(running) // MOVE_TICKS
    floors = np.zeros((len(targets), moves), np.int64)
    scalars = np.zeros(hazard.SCALARS)
    levels = np.zeros((hazard.LEVEL_ROWS, capacity + 1))
    spells = np.zeros((2, capacity + 1, len(hazard.AGE_BINS)))
    hazards = np.zeros(capacity + 1)
    for move in range(moves):
        for second in range(move * MOVE_TICKS, (move + 1) * MOVE_TICKS):
            known = int(scalars[hazard.HIGHEST])
            for index in range(len(targets)):
                count_shadows(shadows[index], peak[second], arrivals[second], known)
            tick(scalars, levels, spells, running[second], peak[second], arrivals[second])
        top = scores(scalars, levels, spells, hazards)
        last = (move + 1) * MOVE_TICKS - 1
        for index in range(len(targets)):
            move_shadows(shadows[index], hazards, top, running[last], peak[last], load_s, prices)
            price = price_for(shadows[index], prices, targets[index])
            floors[index, move] = floor_at(hazards, top, peak[last], load_s, price)
    return floors


@_jit
def simulate_levels(
    arrivals: Floats, departures: Floats, floors: Ints, load_s: float, ahead: bool, limit: int
) -> tuple[Floats, Ints]:
    width, moves = floors.shape
    gpu_s = np.zeros(width)
    cold = np.zeros(width, np.int64)
    held = np.zeros(width, np.int64)
    loading = np.zeros((width, _RING if ahead else 1))  # a ring of instants at which replicas become ready
    first = np.zeros(width, np.int64)
    pending = np.zeros(width, np.int64)
    ring = loading.shape[1]
    count = len(arrivals)
    index = gone = running = move = 0
    now = 0.0
    while True:
        arrives = arrivals[index] if index < count else np.inf
        departs = departures[gone] if gone < count else np.inf
        moves_at = float((move + 1) * MOVE_TICKS) if move < moves else np.inf
        then = min(arrives, departs, moves_at)
        if then == np.inf:
            break
        for k in range(width):
            while pending[k] and loading[k, first[k]] <= then:
                gpu_s[k] -= max(0.0, loading[k, first[k]] - now)
                held[k] += 1
                pending[k] -= 1
                first[k] = (first[k] + 1) % ring
            gpu_s[k] += held[k] * (then - now)
        now = then
        if departs <= then:
            running -= 1
            gone += 1
        elif arrives <= then:
            running += 1
            index += 1
            for k in range(width):
                if running > held[k] * limit:
                    cold[k] += 1
                    held[k] += 1
                    if pending[k]:  # waits for the one that loads already
                        pending[k] -= 1
                        first[k] = (first[k] + 1) % ring
                    else:
                        gpu_s[k] += load_s
        else:
            for k in range(width):
                floor = floors[k, move]
                missing = floor - held[k] - pending[k]
                if ahead and missing > 0:
                    for _ in range(min(missing, ring - pending[k])):
                        loading[k, (first[k] + pending[k]) % ring] = now + load_s
                        pending[k] += 1
                        gpu_s[k] += load_s
                held[k] = max(-(-running // limit), min(held[k], floor))
            move += 1
            if index >= count and gone >= count and held.max() == 0 and pending.max() == 0:
                break
    return gpu_s, cold


@_jit
def smoothed(series: Floats, time_s: float) -> Floats:
    """Exponential average of a series of one value a second, corrected for its start at zero."""
    out = np.empty(len(series))
    mean = weight = 0.0
    for index in range(len(series)):
        mean += (series[index] - mean) / time_s
        weight += (1 - weight) / time_s
        out[index] = mean / weight
    return out


@_jit
def sliding_max(series: Ints, window: int) -> Ints:
    """The maximum of the last `window` values, at each value; a queue of candidates, O(n)."""
    out = np.empty(len(series), np.int64)
    queue = np.empty(len(series), np.int64)
    head = tail = 0
    for index in range(len(series)):
        while tail > head and series[queue[tail - 1]] <= series[index]:
            tail -= 1
        queue[tail] = index
        tail += 1
        if queue[head] <= index - window:
            head += 1
        out[index] = series[queue[head]]
    return out


@_jit
def erlang_floors(load: Floats, peakedness: Floats, blocking: Floats) -> Ints:
    """The fewest servers with at most each blocking probability, (probabilities, moves)."""
    floors = np.zeros((len(blocking), len(load)), np.int64)
    for move in range(len(load)):
        offered = load[move] / peakedness[move]
        blocked = 1.0
        servers = found = 0
        while found < len(blocking) and servers < 10_000:
            while found < len(blocking) and blocked <= blocking[found]:
                floors[found, move] = int(np.ceil(servers * peakedness[move]))
                found += 1
            servers += 1
            blocked = offered * blocked / (servers + offered * blocked)
    return floors


@_jit
def target_tracking(peaks: Ints, targets: Floats, moves: int) -> Ints:
    """Provisioned replicas per move from the peaks per minute, (targets, moves)."""
    per_minute = 60 // MOVE_TICKS
    floors = np.zeros((len(targets), moves), np.int64)
    for index in range(len(targets)):
        provisioned = 0
        above = below = 0
        for minute in range(len(peaks)):
            used = peaks[minute]
            above = above + 1 if used > targets[index] * provisioned else 0
            below = below + 1 if used < 0.9 * targets[index] * provisioned else 0
            if above >= 3 or below >= 15:
                provisioned = int(np.ceil(used / targets[index]))
                above = below = 0
            for move in range((minute + 1) * per_minute - 1, min(moves, (minute + 2) * per_minute - 1)):
                floors[index, move] = provisioned
    return floors


@_jit
def histogram_floors(peaks: Ints, percentiles: Floats) -> Ints:
    """Levels kept until a percentile of their idle gaps, (percentiles, moves)."""
    moves = len(peaks) // MOVE_TICKS
    bins = 240
    top = peaks.max() + 1
    counts = np.zeros((top, bins + 1))
    totals = np.zeros(top)
    idle = np.zeros(top, np.int64)
    seen = np.zeros(top, np.bool_)
    kept_s = np.zeros((len(percentiles), top))
    floors = np.zeros((len(percentiles), moves), np.int64)
    for second in range(moves * MOVE_TICKS):
        for level in range(1, top):
            if peaks[second] >= level:
                if seen[level] and idle[level]:
                    counts[level, min(bins, idle[level] // 60)] += 1
                    totals[level] += 1
                    for index in range(len(percentiles)):
                        wanted = percentiles[index] * totals[level]
                        gathered = 0.0
                        for bin_ in range(bins + 1):
                            gathered += counts[level, bin_]
                            if gathered >= wanted:
                                break
                        kept_s[index, level] = 60.0 * (bin_ + 1)
                seen[level] = True
                idle[level] = 0
            else:
                idle[level] += 1
        if second % MOVE_TICKS == MOVE_TICKS - 1:
            for index in range(len(percentiles)):
                floor = peaks[second]
                for level in range(top - 1, peaks[second], -1):
                    # Without any gap so far, as long as the histogram reaches.
                    limit = kept_s[index, level] if totals[level] >= 2 else 600.0
                    if seen[level] and idle[level] < limit:
                        floor = level
                        break
                floors[index, second // MOVE_TICKS] = floor
    return floors


@_jit
def idle_ticks(
    scalars: Floats,
    levels: Floats,
    spells: Floats,
    shadows: Floats,
    hazards: Floats,
    load_s: float,
    prices: Floats,
    target: float,
    price: float,
    floor: int,
    move_in: int,
    seconds: int,
) -> tuple[int, int, float]:
    """Seconds without a request, in place: so many, or until the floor falls.

    A `target` of 0 stands for a price that is given; `move_in` is at least 1 second. Returns how many passed,
    the floor then, and the price in force.
    """
    known = int(scalars[hazard.HIGHEST])
    count = len(prices)
    for passed in range(1, seconds + 1):
        count_shadows(shadows, 0, 0, known)
        tick(scalars, levels, spells, 0, 0, 0)
        move_in -= 1
        if move_in > 0:
            continue
        move_in = MOVE_TICKS
        held = 0.0
        if target > 0:
            for index in range(count):
                held += shadows[hazard.HELD, index]
        if not floor and not held:
            continue
        top = scores(scalars, levels, spells, hazards)
        if target > 0:
            move_shadows(shadows, hazards, top, 0, 0, load_s, prices)
            price = price_for(shadows, prices, target)
        if floor:
            now_worth = min(floor, floor_at(hazards, top, 0, load_s, price))
            if now_worth < floor:
                return passed, now_worth, price
    return seconds, floor, price


@_jit
def held_floors(floors: Ints, peaks: Ints) -> Ints:
    held = np.zeros_like(floors)
    for k in range(floors.shape[0]):
        before = 0
        for move in range(floors.shape[1]):
            before = min(floors[k, move], max(before, peaks[move]))
            held[k, move] = before
    return held
