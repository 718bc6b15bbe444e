"""Traces from demand by the minute."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from warmpool.experiments.errors import TraceError
from warmpool.experiments.formats import read_trace, write_trace
from warmpool.experiments.minutes import Minute, trace_of_minutes

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def minute(number, arrivals, concurrency=0.0):
    return Minute(NOON + timedelta(minutes=number), arrivals, concurrency)


def test_requests_lie_in_their_minutes_and_run_as_long_as_littles_law_says():
    trace = trace_of_minutes([minute(0, 30, 2.0), minute(5, 10, 1.0), minute(6, 0, 1.0)], "default/generate")

    instants = trace.start.timestamp() + trace.arrivals - NOON.timestamp()
    assert len(trace) == 40
    assert ((instants >= 0) & (instants < 60)).sum() == 30
    assert ((instants >= 300) & (instants < 360)).sum() == 10
    assert trace.service_s == pytest.approx(np.full(40, 4 * 60 / 40))
    assert trace.names == ("default/generate",)


def test_fractions_of_requests_add_up():
    assert len(trace_of_minutes([minute(index, 0.25) for index in range(40)], "f")) == 10


def test_the_same_seed_gives_the_same_trace():
    minutes = [minute(0, 5, 1.0)]
    first, again, other = (trace_of_minutes(minutes, "f", seed=seed).arrivals for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("minutes", "message"),
    [
        ([], "f: no requests are recorded"),
        ([minute(0, 0, 3.0)], "f: requests were in flight, but their source counts no arrivals"),
        ([minute(0, 1e9)], "too many: at most 20,000,000"),
    ],
)
def test_minutes_without_a_trace_are_refused(minutes, message):
    with pytest.raises(TraceError, match=message):
        trace_of_minutes(minutes, "f")


def test_a_trace_that_is_written_is_read_as_it_was(tmp_path):
    trace = trace_of_minutes([minute(0, 5, 1.0), minute(9, 3, 1.0)], "default/generate")

    assert write_trace(trace, tmp_path / "trace.csv") == 8
    read = read_trace(tmp_path / "trace.csv")

    assert read.arrivals == pytest.approx(trace.arrivals, abs=0.002)
    assert read.service_s == pytest.approx(trace.service_s)
    assert read.names == trace.names
    assert abs((read.start - trace.start).total_seconds()) < 0.002
