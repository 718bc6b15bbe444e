"""Hazard floor: keep each replica while the chance that it is needed again soon outweighs its idling.

Demand is seen as levels: level n is busy while at least n requests run (one request per replica; with a
higher concurrency, n replicas' worth). Whenever a level falls idle, `scores` estimates the rate at which it
becomes busy again, in 1/s, from how long it has been idle, the demand of the last half minute and of the
last ten minutes (as a negative binomial, which allows for bursts), how often the level was reached lately,
and how its own and all levels' idle spells have ended so far. A replica is worth keeping while

    hazard * (load_s + price) >= 1

where `load_s` is the GPU time that a new start costs and `price` is what one cold start that a user sees is
worth beyond that, in GPU-seconds. `price` is either given or found for a target rate of cold starts: shadow
pools, which differ only in price, count the cold starts that they would have had, and the cheapest one that
keeps the target is followed. Demand does not depend on the policy, so shadows cost arithmetic alone.

The coefficients come from a Poisson regression of returns within 120 s on recorded and synthetic traffic.
The functions below are pure steps on NumPy arrays and use only what Numba can compile: the controller runs
them as they are, the simulator compiles the very same functions.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

TICK_S: Final = 1.0
"""Demand is observed once a second."""
MOVE_TICKS: Final = 5
"""The floor moves every five ticks; in between it stands."""
HEADROOM: Final = 6
"""How many levels above the highest one ever reached are scored."""

PRICES: Final = (
    0.0, 4.0, 8.0, 16.0, 30.0, 60.0, 90.0, 120.0,
    200.0, 350.0, 600.0, 1000.0, 2000.0, 5000.0, 15000.0, 40000.0,
)  # fmt: skip
"""The shadow pools' prices of a cold start, GPU-seconds."""
PRIOR_PRICE: Final = 120.0
PRIOR_REQUESTS: Final = 500.0
"""How many requests' evidence stands for the prior price at the start."""
HALF_LIFE_S: Final = 1800.0
"""Half-life of the shadow pools' counts."""

AGE_BINS: Final[Array] = np.array(
    [0, 1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450, 700, 1000, 1500, 2500, 4000, 7000],
    dtype=np.float64,
)
"""Lower edges of the bins of idle time, s."""
_LAST_EDGE = 10500.0

# Rows of `scalars`.
TICKS, RUNNING, HIGHEST = 0, 1, 2
MEAN_30, VARIANCE_120, RATE_30, MEAN_600, VARIANCE_1800, RATE_600 = 3, 4, 5, 6, 7, 8
SCALARS: Final = 9
# Rows of `levels`, one column for each level; level 0 is always busy.
AGE, UP_30, UP_120, UP_1200 = 0, 1, 2, 3
LEVEL_ROWS: Final = 4


def new_state(capacity: int) -> tuple[Array, Array, Array]:
    """The state before the first tick, for levels up to `capacity`.

    Returns:
        `scalars` (SCALARS,), `levels` (LEVEL_ROWS, capacity + 1) and `spells` (2, capacity + 1, bins): for
        each level and bin of idle time, the idle spells that ended there and the seconds spent there.
    """
    return (
        np.zeros(SCALARS),
        np.zeros((LEVEL_ROWS, capacity + 1)),
        np.zeros((2, capacity + 1, len(AGE_BINS))),
    )


def tick(  # noqa: PLR0917 - Numba passes positional arguments only
    scalars: Array, levels: Array, spells: Array, running: int, peak: int, arrivals: float
) -> None:
    """Take in one second of demand, in place.

    Args:
        scalars: as `new_state` returns it, like the next two.
        levels: see `scalars`.
        spells: see `scalars`.
        running: requests that run at the end of the second.
        peak: the most that ran at once within it.
        arrivals: requests that arrived within it.
    """
    capacity = levels.shape[1] - 1
    running = min(running, capacity)
    peak = min(max(peak, running), capacity)
    scalars[TICKS] += 1
    ticks = scalars[TICKS]
    before = int(scalars[RUNNING])
    scalars[RUNNING] = running
    highest = max(int(scalars[HIGHEST]), peak)
    scalars[HIGHEST] = highest

    scalars[MEAN_30] += (running - scalars[MEAN_30]) / 30
    scalars[MEAN_600] += (running - scalars[MEAN_600]) / 600
    scalars[RATE_30] += (arrivals - scalars[RATE_30]) / 30
    scalars[RATE_600] += (arrivals - scalars[RATE_600]) / 600
    # Averages that start at zero are divided by the weight that they have gathered.
    short = running - scalars[MEAN_30] / (1 - (1 - 1 / 30) ** ticks)
    long = running - scalars[MEAN_600] / (1 - (1 - 1 / 600) ** ticks)
    scalars[VARIANCE_120] += (short * short - scalars[VARIANCE_120]) / 120
    scalars[VARIANCE_1800] += (long * long - scalars[VARIANCE_1800]) / 1800

    tracked = min(capacity, highest + HEADROOM)
    bins = spells.shape[2]
    for level in range(1, tracked + 1):
        levels[UP_30, level] *= math.exp(-1 / 30)
        levels[UP_120, level] *= math.exp(-1 / 120)
        levels[UP_1200, level] *= math.exp(-1 / 1200)
        if before < level <= peak:
            levels[UP_30, level] += 1 / 30
            levels[UP_120, level] += 1 / 120
            levels[UP_1200, level] += 1 / 1200
        if level <= peak:
            # A level that was never reached before has been idle since the first tick.
            age = levels[AGE, level]
            if age > 0:
                spells[0, level, min(bins, int(np.searchsorted(AGE_BINS, age, side="right"))) - 1] += 1
            levels[AGE, level] = 0
        else:
            levels[AGE, level] += 1
            if level <= highest + 1:
                bin_ = int(np.searchsorted(AGE_BINS, levels[AGE, level], side="right")) - 1
                spells[1, level, bin_] += 1
    for level in range(tracked + 1, capacity + 1):
        levels[AGE, level] += 1


def scores(scalars: Array, levels: Array, spells: Array, out: Array) -> int:
    """Write the return hazard of each level, 1/s, into `out[1:]`; returns the highest level scored."""
    ticks = max(scalars[TICKS], 1.0)
    highest = int(scalars[HIGHEST])
    capacity = levels.shape[1] - 1
    top = min(capacity, highest + HEADROOM)
    bins = spells.shape[2]
    ends = np.zeros(bins)
    spent = np.zeros(bins)
    for level in range(1, highest + 1):
        for bin_ in range(bins):
            ends[bin_] += spells[0, level, bin_]
            spent[bin_] += spells[1, level, bin_]
    weight_30 = 1 - (1 - 1 / 30) ** ticks
    weight_600 = 1 - (1 - 1 / 600) ** ticks
    mean_600 = scalars[MEAN_600] / weight_600
    up_30 = 1 - math.exp(-ticks / 30)
    up_120 = 1 - math.exp(-ticks / 120)
    up_1200 = 1 - math.exp(-ticks / 1200)

    # log P(next level | this level is not exceeded) of a negative binomial, by recurrence over the levels.
    mean_a = max(scalars[MEAN_30] / weight_30, 1e-3)
    mean_b = max(mean_600, 1e-3)
    variance_a = max(scalars[VARIANCE_120] / (1 - (1 - 1 / 120) ** ticks), 1.05 * mean_a)
    variance_b = max(scalars[VARIANCE_1800] / (1 - (1 - 1 / 1800) ** ticks), 1.05 * mean_b)
    log_rate_a = math.log(max(scalars[RATE_30] / weight_30, 1e-4))
    log_rate_b = math.log(max(scalars[RATE_600] / weight_600, 1e-4))
    size_a = mean_a * mean_a / (variance_a - mean_a)
    size_b = mean_b * mean_b / (variance_b - mean_b)
    fail_a = math.log(mean_a / (size_a + mean_a))
    fail_b = math.log(mean_b / (size_b + mean_b))
    log_a = size_a * math.log(size_a / (size_a + mean_a))
    log_b = size_b * math.log(size_b / (size_b + mean_b))
    sum_a = log_a
    sum_b = log_b

    for level in range(1, top + 1):
        if level > 1:
            log_a += math.log((level - 2 + size_a) / (level - 1)) + fail_a
            log_b += math.log((level - 2 + size_b) / (level - 1)) + fail_b
            # log(exp(x) + exp(y)) without leaving the range of a float.
            sum_a = max(sum_a, log_a) + math.log1p(math.exp(-abs(sum_a - log_a)))
            sum_b = max(sum_b, log_b) + math.log1p(math.exp(-abs(sum_b - log_b)))
        nb_30 = min(1.0, max(-14.0, log_rate_a + log_a - sum_a))
        nb_600 = min(1.0, max(-14.0, log_rate_b + log_b - sum_b))
        age = levels[AGE, level]
        bin_ = int(np.searchsorted(AGE_BINS, age, side="right")) - 1
        edge = AGE_BINS[bin_ + 1] if bin_ + 1 < bins else _LAST_EDGE
        pooled = (ends[bin_] + 0.1) / (spent[bin_] + 0.2 * edge + 10)
        own = math.log((spells[0, level, bin_] + 0.3) / (spells[1, level, bin_] + 0.3 / pooled))
        age_below = levels[AGE, level - 1] if level > 1 else 0.0
        up_below = levels[UP_1200, level - 1] / up_1200 if level > 1 else scalars[RATE_600] / weight_600
        out[level] = math.exp(
            -0.5237189213435318
            + 0.05498701922001063 * math.log(1 + age)
            + 0.1784657564672559 * nb_30
            + 0.059847617091239196 * nb_600
            + 0.24742225083325228 * own
            + 0.05074636406799644 * math.log(levels[UP_30, level] / up_30 + 1e-3)
            + 0.02453297350867696 * math.log(levels[UP_120, level] / up_120 + 3e-4)
            + 0.4108746654212987 * math.log(levels[UP_1200, level] / up_1200 + 5e-5)
            + (0.4295360678273611 if level > highest else 0.0)
            - 0.13465733979543815 * math.log(1 + age_below)
            - 0.1587938725113189 * math.log(up_below + 5e-5)
            - 0.151592930527319 * math.log(mean_600 + 0.05)
        )
    return int(top)


def floor_at(hazards: Array, top: int, peak: int, load_s: float, price: float) -> int:
    """The highest level worth holding, and at least `peak`."""
    for level in range(top, peak, -1):
        if hazards[level] * (load_s + price) >= 1:
            return level
    return peak


# Rows of `shadows`, one column for each of PRICES; the last column of COLD_STARTS counts requests.
HELD, COLD_STARTS = 0, 1
SHADOW_ROWS: Final = 2


def new_shadows(target: float) -> Array:
    """The shadow pools before the first tick: (SHADOW_ROWS, prices + 1).

    Until there is evidence, the prior price is the cheapest that keeps `target`.
    """
    shadows = np.zeros((SHADOW_ROWS, len(PRICES) + 1))
    for index, price in enumerate(PRICES):
        rate = target if price >= PRIOR_PRICE else 2 * target
        shadows[COLD_STARTS, index] = PRIOR_REQUESTS * rate
    shadows[COLD_STARTS, len(PRICES)] = PRIOR_REQUESTS
    return shadows


def count_shadows(shadows: Array, peak: int, arrivals: float, known: int) -> None:
    """Count the cold starts that each shadow pool would have had in one second, in place.

    Args:
        shadows: as `new_shadows` returns it.
        peak: the most requests that ran at once within the second.
        arrivals: requests that arrived within it.
        known: the highest level reached before. No holding buys a level that was never seen: not counted.
    """
    count = shadows.shape[1] - 1
    decay = 0.5 ** (TICK_S / HALF_LIFE_S)
    shadows[COLD_STARTS, count] = shadows[COLD_STARTS, count] * decay + arrivals
    for index in range(count):
        missing = max(0.0, min(peak, known) - shadows[HELD, index])
        shadows[COLD_STARTS, index] = shadows[COLD_STARTS, index] * decay + missing
        shadows[HELD, index] = max(shadows[HELD, index], peak)


def move_shadows(  # noqa: PLR0917 - as above
    shadows: Array, hazards: Array, top: int, running: int, peak: int, load_s: float, prices: Array
) -> None:
    """Let each shadow pool drop what its price does not hold, in place."""
    for index in range(prices.shape[0]):
        # As `floor_at`, which a function that Numba compiles by itself cannot call.
        floor = peak
        for level in range(top, peak, -1):
            if hazards[level] * (load_s + prices[index]) >= 1:
                floor = level
                break
        shadows[HELD, index] = max(running, min(shadows[HELD, index], floor))


def price_for(shadows: Array, prices: Array, target: float) -> float:
    """The lowest price whose shadow pool keeps the target rate of cold starts; the highest if none does."""
    count = prices.shape[0]
    requests = max(shadows[COLD_STARTS, count], 1e-9)
    for index in range(count):
        if shadows[COLD_STARTS, index] <= target * requests * (1 + 1e-9):
            return float(prices[index])
    return float(prices[count - 1])
