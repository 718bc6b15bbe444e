"""Reading and writing the JSON of OpenAI's API."""

import json

import pytest

from functions.contract import FinishReason, Message, Parameters, Usage
from functions.engine import Chunk, Embeddings
from functions.engines import openai_dialect as dialect


async def stream(*pieces: bytes):
    for piece in pieces:
        yield piece


async def chunks(*objects):
    body = b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in objects)
    return [chunk async for chunk in dialect.read_chunks(dialect.stream_objects(stream(body)))]


def choice(**members):
    return {"choices": [members]}


END = choice(finish_reason="stop")
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([choice(text="a"), choice(text="b"), END], [Chunk("a"), Chunk("b")]),
        ([choice(delta={"content": "a"}), choice(delta={"role": "assistant"}), END], [Chunk("a")]),
        ([choice(delta={"content": None}), choice(delta=None), choice(text=""), END], []),
        ([choice(text="a", finish_reason="stop")], [Chunk("a")]),
        ([{}, {"choices": []}, {"choices": None}, END], []),
    ],
)
async def test_texts_become_chunks_and_the_last_one_has_the_finish_reason(objects, expected):
    assert await chunks(*objects) == [*expected, Chunk("", finish_reason=FinishReason.STOP)]


async def test_the_last_chunk_has_the_usage_that_follows_the_finish_reason():
    (last,) = await chunks(END, USAGE)
    assert last == Chunk(
        "", finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=3, completion_tokens=2)
    )


async def test_a_stream_without_a_finish_reason_was_cut_off():
    with pytest.raises(dialect.CutOffError):
        await chunks(choice(text="a"), USAGE)


async def test_an_error_within_a_stream_is_raised_with_its_message():
    with pytest.raises(dialect.StreamError, match="out of memory"):
        await chunks(choice(text="a"), {"error": {"message": "out of memory"}})


@pytest.mark.parametrize(
    "value", [{"choices": {"a": 1}}, {"choices": ["a"]}, {"choices": 1}, choice(delta="a")]
)
async def test_a_chunk_of_another_shape_is_an_error(value):
    with pytest.raises(dialect.DialectError, match="without choices"):
        await chunks(value)


@pytest.mark.parametrize("data", [b"[]", b"1", b"{", b"text"])
async def test_an_event_that_is_no_object_is_an_error(data):
    with pytest.raises(dialect.DialectError, match="no JSON object"):
        [value async for value in dialect.stream_objects(stream(b"data: " + data + b"\n\n"))]


async def test_bytes_that_are_no_text_are_an_error():
    with pytest.raises(dialect.DialectError, match="server-sent events"):
        [value async for value in dialect.stream_objects(stream(b"data: \xff\n\n"))]


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\r\n\r\n"])
async def test_a_stream_may_end_without_a_blank_line(end):
    pieces = (b'data: {"a": 1}\n\nda', b"ta: [DONE]" + end)
    events = [event.data async for event in dialect.stream_events(stream(*pieces))]
    assert events == ['{"a": 1}', "[DONE]"]


async def test_nothing_is_read_behind_the_end():
    pieces = (b"data: [DONE]\n\n", b"data: nonsense\n\n")
    assert [value async for value in dialect.stream_objects(stream(*pieces))] == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("eos_token", FinishReason.STOP),
        ("end_turn", FinishReason.STOP),
        (7, FinishReason.STOP),
    ],
)
def test_finish_reasons_beyond_the_list_count_as_stop(given, reason):
    assert dialect.finish_reason(given) is reason


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        (None, None),
        ({}, None),
        ([1], None),
        ({"prompt_tokens": 1}, Usage(prompt_tokens=1)),
        ({"prompt_tokens": "1", "completion_tokens": 2}, Usage(completion_tokens=2)),
    ],
)
def test_usage_has_the_counts_that_are_numbers(value, usage):
    assert dialect.usage_of(value) == usage


def test_embeddings_are_put_in_the_order_of_the_inputs():
    rows = [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}]
    body = json.dumps({"data": rows, "usage": {"prompt_tokens": 5}}).encode()
    assert dialect.read_embeddings(body, 2) == Embeddings(((1.0, 2.0), (3.0, 4.0)), Usage(prompt_tokens=5))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no embeddings"),
        (b"[]", "no embeddings"),
        (b'{"data": [{"index": 0}]}', "no embeddings"),
        (b'{"data": [{"index": 0, "embedding": ["x"]}]}', "no embeddings"),
        (b'{"data": []}', "0 vectors for 1 inputs"),
    ],
)
def test_a_response_without_a_vector_for_each_input_is_an_error(body, says):
    with pytest.raises(dialect.DialectError, match=says):
        dialect.read_embeddings(body, 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"error": {}}', None),
        (b"[]", None),
        (b"<html>", None),
    ],
)
def test_error_messages(body, message):
    assert dialect.error_message(body) == message


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b'{"data": [{"id": "m", "max_model_len": 7}]}', 7),
        (b'{"data": [{"id": "other", "max_model_len": 7}]}', None),
        (b'{"data": [{"id": "m"}]}', None),
        (b'{"data": [{"id": "m", "max_model_len": "7"}]}', None),
        (b'{"data": ["m"]}', None),
        (b"{}", None),
        (b"<html>", None),
    ],
)
def test_the_context_length_is_read_where_a_server_gives_it(body, length):
    assert dialect.read_max_model_len(body, "m") == length


def test_what_is_at_its_default_is_left_to_the_server():
    assert dialect.sampling_members(Parameters()) == {}
    given = Parameters(max_tokens=3, temperature=0.0, stop=("a",), ignore_eos=True)
    assert dialect.sampling_members(given) == {
        "max_tokens": 3,
        "temperature": 0.0,
        "stop": ("a",),
        "ignore_eos": True,
    }


def test_a_message_is_sent_with_role_and_content_alone():
    messages = (Message(role="user", content="a", special_tokens="keep"),)
    assert dialect.message_members(messages) == [{"role": "user", "content": "a"}]
