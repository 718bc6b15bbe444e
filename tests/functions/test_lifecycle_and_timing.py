"""The pure values: states and moves, phases, token latencies, headers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.http.reverse_proxy import tokens_in
from functions.lifecycle import TRANSITIONS, Lifecycle, State, TransitionError, Warmth
from functions.replica import ReplicaTracker
from functions.timing import (
    ColdStartTiming,
    Phase,
    ServerTiming,
    TokenTimes,
    format_server_timing,
    parse_server_timing,
)
from functions.tracing import request_id
from transport.trace_context import continue_trace


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_only_the_transitions_of_the_table_are_allowed(before, after):
    lifecycle = Lifecycle(before)
    if after in TRANSITIONS[before]:
        assert lifecycle.to(after, cause="why" if after is State.FAILED else None).state is after
    else:
        with pytest.raises(TransitionError, match=f"{before} -> {after}"):
            lifecycle.to(after, cause="why")


def test_every_state_can_be_reached_and_draining_is_final():
    reached = {State.STARTING} | {after for moves in TRANSITIONS.values() for after in moves}
    assert reached == set(State)
    assert [state for state in State if not TRANSITIONS[state]] == [State.DRAINING]


@pytest.mark.parametrize(
    ("path", "live", "ready", "warmth"),
    [
        ([], True, False, Warmth.COLD),
        ([State.LOADING], True, False, Warmth.COLD),
        ([State.LOADING, State.HOT], True, True, Warmth.HOT),
        ([State.STANDBY], True, True, Warmth.STANDBY),
        ([State.STANDBY, State.LOADING], True, True, Warmth.STANDBY),
        ([State.HOT, State.LOADING], True, False, Warmth.COLD),
        ([State.HOT, State.ASLEEP], True, True, Warmth.ASLEEP),
        ([State.HOT, State.ASLEEP, State.LOADING], True, True, Warmth.ASLEEP),
        ([State.HOT, State.DRAINING], True, False, Warmth.COLD),
        ([State.FAILED], False, False, Warmth.COLD),
        ([State.FAILED, State.DRAINING], False, False, Warmth.COLD),
    ],
)
def test_probes_and_warmth_follow_from_where_the_replica_is_and_was(path, live, ready, warmth):
    lifecycle = Lifecycle()
    for state in path:
        lifecycle = lifecycle.to(state, cause="why" if state is State.FAILED else None)
    assert (lifecycle.live, lifecycle.ready, lifecycle.warmth) == (live, ready, warmth)


def test_a_failure_needs_a_cause_and_keeps_it():
    with pytest.raises(TransitionError, match="cause"):
        Lifecycle().to(State.FAILED)
    assert Lifecycle().to(State.FAILED, cause="no disk").to(State.DRAINING).cause == "no disk"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_replicas_cold_starts_are_measured_from_the_process_and_then_from_each_order():
    clock = Clock()
    replica = ReplicaTracker(process_started=50.0, clock=clock, wall=lambda: 52.0)
    done = []
    replica.on_cold_start(done.append)
    replica.record(Phase.IMPORT, 2.0)
    replica.to(State.STANDBY)
    clock.now += 100
    replica.to(State.LOADING)
    with replica.measure(Phase.WEIGHTS):
        clock.now += 3
    replica.to(State.HOT)
    assert done == [ColdStartTiming("standby", {Phase.WEIGHTS: 3.0}, 3.0)]
    assert replica.last_cold_start == replica.cold_start == done[0]
    clock.now += 5
    replica.to(State.LOADING)
    clock.now += 1
    replica.to(State.HOT)
    assert done[1] == ColdStartTiming("standby", {}, 1.0), "after a crash the code is still there"

    cold = ReplicaTracker(process_started=50.0, clock=clock, wall=lambda: 52.0)
    cold.on_cold_start(done.append)
    cold.record(Phase.IMPORT, 2.0)
    cold.to(State.LOADING)
    clock.now += 1
    cold.to(State.HOT)
    assert done[2] == ColdStartTiming("cold", {Phase.IMPORT: 2.0}, 3.0)


def test_latencies_of_a_generation():
    times = TokenTimes(10.0, (10.5, 10.75, 11.5))
    assert times.ttft == 0.5
    assert times.itl == (0.25, 0.75)
    assert times.e2e == 1.5
    assert times.tpot == 0.5
    assert times.tpot == (times.e2e - times.ttft) / 2


def test_unknown_latencies_are_none():
    assert (TokenTimes(1.0).ttft, TokenTimes(1.0).e2e, TokenTimes(1.0).itl, TokenTimes(1.0).tpot) == (
        None,
        None,
        (),
        None,
    )
    assert TokenTimes(1.0, (2.0,)).tpot is None


def test_tokens_of_a_stream_are_counted_by_its_events_not_by_its_pieces():
    event = b'data: {"choices": []}\n\n'
    assert tokens_in(event) == 1
    assert tokens_in(event * 3) == 3
    assert tokens_in(event * 2 + b"data: [DONE]\n\n") == 2
    assert tokens_in(b"data: [DONE]\n\n") == 0
    assert tokens_in(event[9:]) == 0


def test_a_phase_is_never_negative_and_adds_up():
    assert ColdStartTiming("cold").with_phase(Phase.WEIGHTS, 1.0).with_phase(Phase.WEIGHTS, 0.5).phases == {
        Phase.WEIGHTS: 1.5
    }
    with pytest.raises(ValueError, match="weights = -1"):
        ColdStartTiming("cold").with_phase(Phase.WEIGHTS, -1)


tokens = st.from_regex(r"\A[a-z][a-z0-9_-]{0,9}\Z")
milliseconds = st.one_of(st.none(), st.integers(0, 10**9).map(lambda n: n / 1_000_000))
descriptions = st.one_of(
    st.none(), st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)
)


@given(st.lists(st.builds(ServerTiming, tokens, milliseconds, descriptions), max_size=5))
def test_what_is_formatted_parses_back(metrics):
    parsed = parse_server_timing(format_server_timing(metrics))
    assert [(m.name, m.description) for m in parsed] == [(m.name, m.description) for m in metrics]
    for before, after in zip(metrics, parsed, strict=True):
        assert (before.seconds is None) == (after.seconds is None)
        if before.seconds is not None:
            assert after.seconds == pytest.approx(before.seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("header", "metrics"),
    [
        ("miss, db;dur=53, app;dur=47.2", [("miss", None, None), ("db", 0.053, None), ("app", 0.0472, None)]),
        ('cache;desc="Cache Read";dur=23.2', [("cache", 0.0232, "Cache Read")]),
        ("a ; dur = 1 , b", [("a", 0.001, None), ("b", None, None)]),
        ("a;dur=x;desc=y;dur=2", [("a", None, "y")]),
        ("", []),
    ],
)
def test_headers_of_other_servers_parse_as_the_standard_says(header, metrics):
    got = parse_server_timing(header)
    assert [(m.name, m.description) for m in got] == [(n, d) for n, _, d in metrics]
    if "x;" not in header:
        assert [m.seconds for m in got] == [
            pytest.approx(s) if s is not None else None for _, s, _ in metrics
        ]


def test_a_name_that_is_not_a_token_is_refused():
    with pytest.raises(ValueError, match="HTTP token"):
        format_server_timing([ServerTiming("two words")])


GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_continues_with_a_new_span():
    assert (
        continue_trace(GOOD, new_id=lambda n: "c" * 2 * n)
        == f"00-0af7651916cd43dd8448eb211c80319c-{'c' * 16}-01"
    )
    future = GOOD.replace("00-", "cc-", 1) + "-what-the-future-will-be-like"
    assert continue_trace(future).split("-")[1] == GOOD.split("-")[1]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "nonsense",
        GOOD.upper(),
        GOOD.replace("00-", "ff-", 1),
        GOOD + "-more",
        GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        GOOD.replace("b7ad6b7169203331", "0" * 16),
    ],
)
def test_a_malformed_trace_starts_a_new_one(bad):
    assert continue_trace(bad, new_id=lambda n: "d" * 2 * n) == f"00-{'d' * 32}-{'d' * 16}-01"


@pytest.mark.parametrize(
    ("received", "kept"),
    [("abc-1", True), ("", False), (None, False), ("a b", False), ("x" * 129, False), ("é", False)],
)
def test_a_request_id_is_kept_where_it_is_usable(received, kept):
    assert (request_id(received) == received) is kept
