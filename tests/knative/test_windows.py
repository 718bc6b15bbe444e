"""Sliding windows: Knative's numbers, and agreement with a slow, obvious implementation."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knative.autoscaling.windows import LinearWindow, MaxWindow, WeightedWindow, smoothing_coefficient

VECTORS = json.loads((Path(__file__).parent / "data" / "kpa_vectors.json").read_text())
KINDS = {"linear": LinearWindow, "weighted-exponential": WeightedWindow}


@pytest.mark.parametrize("case", VECTORS["buckets"], ids=lambda case: case["test"])
def test_knatives_bucket_cases(case):
    window = KINDS[case["kind"]](case["window_s"])
    for operation in case["ops"]:
        if "record" in operation:
            window.record(*operation["record"])
        else:
            assert window.average(operation["avg_at"]) == pytest.approx(operation["want"], abs=1e-3)


@pytest.mark.parametrize(("buckets", "want"), VECTORS["smoothing_coeff"])
def test_smoothing_coefficient(buckets, want):
    assert smoothing_coefficient(buckets) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("case", VECTORS["max_window_size5"], ids=lambda case: case["name"])
def test_knatives_maximum_cases(case):
    window = MaxWindow(5)
    seen = []
    for index, value in zip(case["index"] or range(len(case["values"])), case["values"], strict=True):
        window = window.record(index, value)
        seen.append(window.current)
    assert seen == case["want"]


class Oracle:
    """The linear window written as its definition: a dictionary of seconds."""

    def __init__(self, size):
        self.size, self.values, self.first, self.last = size, {}, None, None

    def record(self, second, value):
        if self.last is None or second >= self.last + self.size:
            self.values, self.first, self.last = {}, second, second
        elif second <= self.last - self.size:
            return
        self.first, self.last = min(self.first, second), max(self.last, second)
        self.values[second] = self.values.get(second, 0) + value

    def average(self, now):
        if self.last is None or now - self.last >= self.size:
            return 0.0
        end = max(now, self.last)
        total = sum(value for second, value in self.values.items() if end - self.size < second <= self.last)
        divisor = min(self.last - self.first + 1, self.size - (end - self.last))
        return total / divisor


moves = st.lists(st.tuples(st.integers(-8, 12), st.integers(0, 1000), st.booleans()), min_size=1, max_size=60)


@given(size=st.integers(1, 8), moves=moves)
def test_the_linear_window_agrees_with_its_definition(size, moves):
    window, oracle, now = LinearWindow(size), Oracle(size), 100
    for delta, value, ask in moves:
        now = max(50, now + delta)
        if ask:
            assert window.average(now + 0.5) == pytest.approx(oracle.average(now), abs=1e-6)
        else:
            window.record(now + 0.25, value)
            oracle.record(now, value)
    assert window.average(now) == pytest.approx(oracle.average(now), abs=1e-6)


@given(
    size=st.integers(1, 6),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), min_size=1, max_size=40),
)
def test_the_maximum_agrees_with_its_definition(size, steps):
    window, seen, index = MaxWindow(size), [], 0
    for delta, value in steps:
        index += delta
        seen.append((index, value))
        window = window.record(index, value)
        assert window.current == max(v for at, v in seen if index - at < size)


def test_a_constant_reads_twice_the_coefficient_after_one_second():
    window = WeightedWindow(60)
    window.record(10, 2)
    assert window.average(10) == pytest.approx(2 * smoothing_coefficient(60))


def test_silence_is_empty_only_after_a_whole_window():
    window = LinearWindow(6)
    assert window.is_empty(0)
    window.record(10, 1)
    assert not window.is_empty(16.9)
    assert window.is_empty(17)
    assert window.average(16) == 0.0


@pytest.mark.parametrize("kind", [LinearWindow, WeightedWindow])
def test_growing_keeps_the_values_and_shrinking_keeps_the_newest(kind):
    window = kind(5)
    for second in range(1, 7):
        window.record(second, second)
    window.resize(10, 6)
    grown = window.average(6)
    if kind is LinearWindow:
        assert grown == pytest.approx((2 + 3 + 4 + 5 + 6) / 5)
    window.resize(2, 6)
    if kind is LinearWindow:
        assert window.average(6) == pytest.approx(5.5)
    else:
        k = smoothing_coefficient(2)
        assert window.average(6) == pytest.approx(6 * k + 5 * k * (1 - k))


def test_resizing_a_silent_window_clears_it():
    window = LinearWindow(5)
    window.record(1, 9)
    window.resize(7, 100)
    assert window.is_empty(100)
    window.record(101, 3)
    assert math.isclose(window.average(101), 3)
