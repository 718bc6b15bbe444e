"""Where boxes and arrows of a picture stand: in layers, from top to bottom (pure).

The way of Sugiyama, Tagawa and Toda (1981): layers by the longest way from the top, orders within them that
cross few arrows, then places near what a box is bound to. An arrow over several layers has a bend in each.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

_SWEEPS = 12
_PLACINGS = 60
_GAP = 28.0
_LAYER_GAP = 52.0
_BEND_WIDTH = 12.0


@dataclass(frozen=True, slots=True)
class Size:
    """Of a box."""

    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Point:
    """From the upper left corner, to the right and downwards."""

    x: float
    y: float


@dataclass(frozen=True)
class Layout:
    """Where everything is.

    Attributes:
        centres: of the boxes.
        ways: points of each arrow, from the border of its source to that of its target.
        size: of all of it.
    """

    centres: Mapping[str, Point]
    ways: tuple[tuple[Point, ...], ...]
    size: Size


def place(
    sizes: Mapping[str, Size],
    arrows: Sequence[tuple[str, str]],
    weights: Sequence[float],
    *,
    bottom: str | None,
) -> Layout:
    """The places.

    Args:
        sizes: of the boxes, in an order that is kept where nothing speaks against it.
        arrows: source and target of each; one that would close a circle is drawn upwards.
        weights: of the arrows: how much each is to be short and straight.
        bottom: a box that stands alone in the last layer.
    """
    layer = _layers(list(sizes), arrows, bottom)
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for name in sizes:
        rows[layer[name]].append(name)
    bends, links, pulls = _bend(rows, layer, arrows, weights)
    rows = _order(rows, links)
    width = {**dict.fromkeys((bend for way in bends for bend in way), _BEND_WIDTH)}
    width |= {name: size.width for name, size in sizes.items()}
    x = _across(rows, dict(zip(links, pulls, strict=True)), width)
    y: dict[str, tuple[float, float]] = {}
    down = 0.0
    for row in rows:
        height = max((sizes[name].height for name in row if name in sizes), default=0.0)
        y |= dict.fromkeys(row, (down, down + height))
        down += height + _LAYER_GAP
    left = min((x[name] - width[name] / 2 for name in x), default=0.0)
    right = max((x[name] + width[name] / 2 for name in x), default=0.0)
    x = {name: value - left for name, value in x.items()}
    centres = {name: Point(x[name], fmean(y[name])) for name in sizes}
    ways = []
    for (source, target), passed in zip(arrows, bends, strict=True):
        side = 1 if layer[target] > layer[source] else -1
        start, end = centres[source], centres[target]
        # Straight through the layers on the way, so that it touches no box there.
        between = [Point(x[bend], height) for bend in passed for height in y[bend][::side]]
        ways.append(
            (
                Point(start.x, start.y + side * sizes[source].height / 2),
                *between,
                Point(end.x, end.y - side * sizes[target].height / 2),
            )
        )
    return Layout(centres, tuple(ways), Size(right - left, max(down - _LAYER_GAP, 0.0)))


def _layers(names: list[str], arrows: Sequence[tuple[str, str]], bottom: str | None) -> dict[str, int]:
    layer = dict.fromkeys(names, 0)
    forward: list[tuple[str, str]] = []
    behind: dict[str, set[str]] = {name: set() for name in names}
    for source, target in arrows:
        if not _reaches(behind, target, source):
            behind[source].add(target)
            forward.append((source, target))
    # Longest ways: as many rounds as the longest has arrows.
    for _ in names:
        changed = False
        for source, target in forward:
            if layer[target] <= layer[source]:
                layer[target] = layer[source] + 1
                changed = True
        if not changed:
            break
    if bottom is not None:
        layer[bottom] = max(layer[name] for name in names if name != bottom) + 1
    return layer


def _reaches(behind: Mapping[str, set[str]], start: str, end: str) -> bool:
    left, seen = [start], {start}
    while left:
        name = left.pop()
        if name == end:
            return True
        fresh = behind[name] - seen
        seen |= fresh
        left.extend(fresh)
    return False


def _bend(
    rows: list[list[str]],
    layer: Mapping[str, int],
    arrows: Sequence[tuple[str, str]],
    weights: Sequence[float],
) -> tuple[list[list[str]], list[tuple[str, str]], list[float]]:
    """A bend in each layer that an arrow crosses.

    Returns:
        The bends of each arrow, all links downwards, and the weight of each link.
    """
    bends: list[list[str]] = []
    links: list[tuple[str, str]] = []
    pulls: list[float] = []
    for at, ((source, target), weight) in enumerate(zip(arrows, weights, strict=True)):
        step = 1 if layer[target] > layer[source] else -1
        way = [f"\0{at}/{level}" for level in range(layer[source] + step, layer[target], step)]
        for bend, level in zip(way, range(layer[source] + step, layer[target], step), strict=True):
            rows[level].append(bend)
        bends.append(way)
        chain = [source, *way, target][::step]
        links += itertools.pairwise(chain)
        # Long arrows bend at their ends, if they have to.
        pulls += [
            weight * (4 if one in way and other in way else 1) for one, other in itertools.pairwise(chain)
        ]
    return bends, links, pulls


def _neighbours(links: Sequence[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for upper, lower in links:
        below.setdefault(upper, []).append(lower)
        above.setdefault(lower, []).append(upper)
    return above, below


def _order(rows: list[list[str]], links: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The rows ordered by the mean place of what each is bound to; the best of several sweeps."""
    above, below = _neighbours(links)
    best, fewest = rows, _crossings(rows, below)
    now = [list(row) for row in rows]
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        bound = above if sweep % 2 == 0 else below
        for at in range(len(now)) if sweep % 2 == 0 else reversed(range(len(now))):
            beside = now[at - 1] if sweep % 2 == 0 else now[(at + 1) % len(now)]
            place = {name: float(index) for index, name in enumerate(beside)}
            own = {name: float(index) for index, name in enumerate(now[at])}
            wish = {
                name: fmean(known)
                if (known := [place[o] for o in bound.get(name, ()) if o in place])
                else own[name]
                for name in now[at]
            }
            now[at].sort(key=wish.__getitem__)
        if (count := _crossings(now, below)) < fewest:
            best, fewest = [list(row) for row in now], count
    return best


def _crossings(rows: Sequence[Sequence[str]], below: Mapping[str, list[str]]) -> int:
    count = 0
    for row, under in itertools.pairwise(rows):
        place = {name: index for index, name in enumerate(under)}
        passed: list[int] = []
        for name in row:
            ends = sorted(place[other] for other in below.get(name, ()))
            count += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return count


def _across(
    rows: Sequence[Sequence[str]], pulls: Mapping[tuple[str, str], float], width: Mapping[str, float]
) -> dict[str, float]:
    """Centres from left to right: near what each is bound to, in the order of the row, without overlap."""
    bound: dict[str, list[tuple[str, float]]] = {}
    for (upper, lower), pull in pulls.items():
        bound.setdefault(upper, []).append((lower, pull))
        bound.setdefault(lower, []).append((upper, pull))
    x: dict[str, float] = {}
    for row in rows:
        x |= zip(row, _apart(row, [0.0] * len(row), width), strict=True)
    for sweep in range(_PLACINGS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wishes = [
                fmean([x[other] for other, _ in near], [pull for _, pull in near])
                if (near := bound.get(name))
                else x[name]
                for name in row
            ]
            x |= zip(row, _apart(row, wishes, width), strict=True)
    return x


def _apart(row: Sequence[str], wishes: Sequence[float], width: Mapping[str, float]) -> list[float]:
    """The centres nearest to the wishes (least squares) that keep order and gaps.

    Without the room that those to the left need, it is a regression to a rising line: neighbours that want to
    pass each other are pooled at their mean (Ayer et al., 1955).
    """
    room = [0.0] if row else []
    for left, right in itertools.pairwise(row):
        room.append(room[-1] + (width[left] + width[right]) / 2 + _GAP)
    pools: list[tuple[float, int]] = []
    for wish, before in zip(wishes, room, strict=True):
        mean, count = wish - before, 1
        while pools and pools[-1][0] > mean:
            other, many = pools.pop()
            mean, count = (mean * count + other * many) / (count + many), count + many
        pools.append((mean, count))
    level = [mean for mean, count in pools for _ in range(count)]
    return [value + before for value, before in zip(level, room, strict=True)]
