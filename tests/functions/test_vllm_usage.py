"""The tokens that vLLM reports are counted, and a client that did not ask for the report does not see it."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.contract import Usage
from functions.engines.vllm.usage import UsageFilter, ask_for_usage, usage_in

CHUNK = {
    "id": "c",
    "choices": [{"index": 0, "delta": {"content": 'say "usage":{} \u00e4'}, "finish_reason": None}],
}
REPORT = {"id": "c", "choices": [], "usage": {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3}}


def event(value) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


STREAM = event(CHUNK) + event(CHUNK) + event(REPORT) + event("[DONE]")
SEEN = event(CHUNK) + event(CHUNK) + event("[DONE]")


def through(filtered: UsageFilter, pieces: list[bytes]) -> bytes:
    return b"".join([*map(filtered.feed, pieces), filtered.rest()])


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_report_is_taken_out_wherever_the_stream_is_cut(cuts):
    edges = sorted({0, *cuts, len(STREAM)})
    pieces = [STREAM[begin:end] for begin, end in itertools.pairwise(edges)]
    filtered = UsageFilter(strip=True)
    assert through(filtered, pieces) == SEEN
    assert filtered.usage == Usage(prompt_tokens=5, completion_tokens=3)


def test_a_client_that_asked_for_it_gets_it_as_it_came():
    filtered = UsageFilter(strip=False)
    assert through(filtered, [STREAM]) == STREAM
    assert filtered.usage == Usage(prompt_tokens=5, completion_tokens=3)


def test_the_end_of_a_stream_that_is_cut_off_is_passed_on():
    assert through(UsageFilter(strip=True), [event(CHUNK) + b"data: {"]) == event(CHUNK) + b"data: {"


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (json.dumps(REPORT).encode(), Usage(prompt_tokens=5, completion_tokens=3)),
        (b'{"usage":{"prompt_tokens":4,"total_tokens":4}}', Usage(prompt_tokens=4, completion_tokens=0)),
        (b'{"usage":{"input_tokens":7,"output_tokens":2}}', Usage(prompt_tokens=7, completion_tokens=2)),
        (json.dumps({"text": '"usage":{"prompt_tokens":9}'}).encode(), None),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tok', None),
        (b"", None),
    ],
)
def test_the_tokens_of_a_whole_answer(body, usage):
    assert usage_in(body) == usage


@pytest.mark.parametrize(
    ("body", "options", "strip"),
    [
        ({"stream": True}, {"include_usage": True}, True),
        ({"stream": True, "stream_options": None}, {"include_usage": True}, True),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            {"continuous_usage_stats": True, "include_usage": True},
            True,
        ),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"include_usage": True}, False),
        ({"stream": False}, None, False),
        ({"stream": True, "stream_options": "x"}, "x", False),
    ],
)
def test_a_stream_is_asked_for_its_tokens(body, options, strip):
    asked, strips = ask_for_usage(json.dumps(body).encode())
    assert (json.loads(asked).get("stream_options"), strips) == (options, strip)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3"])
def test_what_the_server_will_refuse_stays_as_it_is(body):
    assert ask_for_usage(body) == (body, False)
