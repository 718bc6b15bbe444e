"""Server-sent events: however the bytes are cut, the events come out the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.sse import MAX_EVENT_BYTES, EventParser, ServerSentEvent, encode_event


def parse(raw: bytes, **options: bool) -> list[ServerSentEvent]:
    return list(EventParser(**options).feed(raw))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\n", [("message", "a")]),
        (b"event: x\r\ndata:a\r\ndata: b\r\n\r\n", [("x", "a\nb")]),
        (b": comment\nid: 3\nretry: 5\ndata: a\n\n", [("message", "a")]),
        (b"event: lonely\n\ndata: a\n\n", [("message", "a")]),
        (b"data\n\n", [("message", "")]),
        (b"data: never finished\n", []),
        (b"data:  two spaces\n\n", [("message", " two spaces")]),
        (b"\n\n\ndata: a\n\n\n\n", [("message", "a")]),
    ],
)
def test_streams_parse_as_the_standard_says(raw: bytes, expected: list[tuple[str, str]]):
    assert [(event.name, event.data) for event in parse(raw)] == expected


STREAM = b'event: delta\r\ndata: {"text": "\xc3\xa9"}\r\n\r\n: ping\n\ndata: a\ndata: b\n\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=10))
def test_the_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]):
    places = sorted(cuts)
    parser = EventParser(with_comments=True)
    got = []
    for begin, end in zip([0, *places], [*places, len(STREAM)], strict=True):
        got += parser.feed(STREAM[begin:end])
    assert got == parse(STREAM, with_comments=True)
    assert b"".join(event.raw for event in got) == STREAM


def test_a_block_of_comments_is_given_only_to_who_passes_it_on():
    raw = b": waiting for the model\n\n"
    assert parse(raw) == []
    (event,) = parse(raw, with_comments=True)
    assert (event.data, event.raw) == ("", raw)


def test_an_event_without_end_is_refused():
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // 2**20):
        assert list(parser.feed(b"x" * 2**20)) == []
    with pytest.raises(ValueError, match="more than"):
        list(parser.feed(b"x"))


def test_an_event_of_lines_without_end_is_refused():
    parser = EventParser()
    lines = b"data: x\n" * 2**17
    for _ in range(MAX_EVENT_BYTES // len(lines)):
        assert list(parser.feed(lines)) == []
    with pytest.raises(ValueError, match="more than"):
        list(parser.feed(lines))


def test_what_is_written_is_read():
    assert parse(encode_event(b'{"a": 1}', "delta") + encode_event(b"[DONE]")) == [
        ServerSentEvent("delta", '{"a": 1}'),
        ServerSentEvent("message", "[DONE]"),
    ]
