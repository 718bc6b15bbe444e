"""Server-sent events: however the bytes are cut, the events come out the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.contract import Delta, Failure, Final, Problem, StageReply, decode_event, encode_event
from transport.sse import MAX_EVENT_BYTES, EventParser

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
events = st.one_of(
    st.builds(Delta, texts),
    st.builds(Final, st.builds(StageReply, id=st.just("i"), stage=st.just("s"), output=texts)),
    st.builds(Failure, st.builds(Problem, title=texts, status=st.integers(400, 599), detail=texts)),
)


@given(st.lists(events, max_size=6), st.lists(st.integers(0, 2000), max_size=10))
def test_however_a_stream_is_cut_its_events_are_the_same(sent, cuts):
    raw = b"".join(encode_event(event) for event in sent)
    places = sorted({min(cut, len(raw)) for cut in cuts})
    parser = EventParser()
    got = []
    for begin, end in zip([0, *places], [*places, len(raw)], strict=True):
        got += [decode_event(event.name, event.data) for event in parser.feed(raw[begin:end])]
    assert got == sent


def parse(raw):
    return [(event.name, event.data) for event in EventParser().feed(raw)]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\n", [("message", "a")]),
        (b"event: x\r\ndata:a\r\ndata: b\r\n\r\n", [("x", "a\nb")]),
        (b": comment\nid: 3\nretry: 5\ndata: a\n\n", [("message", "a")]),
        (b"event: lonely\n\ndata: a\n\n", [("message", "a")]),
        (b"data\n\n", [("message", "")]),
        (b"data: never finished\n", []),
    ],
)
def test_streams_of_others_parse_as_the_standard_says(raw, expected):
    assert parse(raw) == expected


def test_an_event_without_end_is_refused():
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // 2**20):
        assert list(parser.feed(b"x" * 2**20)) == []
    with pytest.raises(ValueError, match="more than"):
        list(parser.feed(b"x"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ping", "{}"),
        ("delta", "{}"),
        ("delta", "[]"),
        ("delta", '{"text": 1}'),
        ("reply", "{}"),
        ("error", "{"),
    ],
)
def test_an_event_that_is_none_of_ours_is_refused(name, data):
    with pytest.raises(ValueError):  # noqa: PT011 - several kinds of ValueError
        decode_event(name, data)


def test_an_event_is_one_line_of_json_whatever_the_text():
    raw = encode_event(Delta("two\nlines\r\n\u2028"))
    assert raw.count(b"\n") == 3
    assert json.loads(raw.split(b"data: ")[1]) == {"text": "two\nlines\r\n\u2028"}
