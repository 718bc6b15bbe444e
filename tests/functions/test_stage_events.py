"""The events of a stage's stream, written and read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.contract import Delta, Failure, Final, Problem, StageReply, decode_event, encode_event
from transport.sse import EventParser

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
events = st.one_of(
    st.builds(Delta, texts),
    st.builds(Final, st.builds(StageReply, id=st.just("i"), stage=st.just("s"), output=texts)),
    st.builds(Failure, st.builds(Problem, title=texts, status=st.integers(400, 599), detail=texts)),
)


@given(st.lists(events, max_size=6), st.lists(st.integers(0, 2000), max_size=10))
def test_the_events_do_not_depend_on_how_the_bytes_are_cut(sent, cuts):
    raw = b"".join(encode_event(event) for event in sent)
    places = sorted({min(cut, len(raw)) for cut in cuts})
    parser = EventParser()
    got = []
    for begin, end in zip([0, *places], [*places, len(raw)], strict=True):
        got += [decode_event(event.name, event.data) for event in parser.feed(raw[begin:end])]
    assert got == sent


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
def test_an_event_outside_the_contract_is_refused(name, data):
    with pytest.raises(ValueError):  # noqa: PT011 - several kinds of ValueError
        decode_event(name, data)


def test_an_event_is_one_line_of_json_whatever_the_text():
    raw = encode_event(Delta("two\nlines\r\n\u2028"))
    assert raw.count(b"\n") == 3
    assert json.loads(raw.split(b"data: ")[1]) == {"text": "two\nlines\r\n\u2028"}
