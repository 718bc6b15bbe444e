"""Postprocess over real HTTP: whole texts and segments, whitespace, stop sequences, JSON."""

import asyncio
import contextlib
import json
import time

import pytest

from functions.http.app import create_app
from functions.settings import FunctionSettings
from functions.stages.postprocess import build
from tests.functions.servers import serving, stage_process, wait_ready


@contextlib.asynccontextmanager
async def postprocess(**config):
    settings = FunctionSettings(service="post", stage_config=config)
    async with serving(create_app(build(settings), settings)) as url:
        yield url


async def post(http, url, **body):
    async with http.post(f"{url}/invoke", json=body) as response:
        return response.status, await response.json(content_type=None)


async def test_a_whole_text_is_cut_cleaned_and_redacted(http):
    async with postprocess(stop=["###"], collapseWhitespace=True) as url:
        status, reply = await post(
            http,
            url,
            input="\n Hi  \n\n\n\nmail a@b.org now \n### the rest sk-aaaaaaaaaaaaaaaaaaaaaaaa",
            id="r",
        )
    assert status == 200
    assert reply["output"] == "Hi\n\nmail [redacted email] now"
    assert reply["data"] == {"redactions": {"email": 1}, "stopped": True}
    assert reply["finish_reason"] == "stop"
    assert reply["id"] == "r"
    assert "carry" not in reply


async def test_the_requests_own_stop_sequences_count_too(http):
    async with postprocess() as url:
        _, reply = await post(http, url, input="one two three", parameters={"stop": " two"})
    assert reply["output"] == "one"


@pytest.mark.parametrize(
    ("config", "out"),
    [
        ({}, "[redacted email] \n\n\n [redacted card]"),
        ({"stripWhitespace": False}, "  [redacted email] \n\n\n [redacted card] \n"),
        ({"collapseWhitespace": True}, "[redacted email]\n\n [redacted card]"),
        ({"redact": []}, "a@b.org \n\n\n 4111111111111111"),
        ({"redact": ["card"], "replacement": "***"}, "a@b.org \n\n\n ***"),
    ],
)
async def test_what_is_done_follows_the_configuration(http, config, out):
    async with postprocess(**config) as url:
        _, reply = await post(http, url, input="  a@b.org \n\n\n 4111111111111111 \n")
    assert reply["output"] == out


async def test_segments_give_the_text_of_the_whole_through_any_replica(http):
    text = "Dear x, reach me at jo.doe@mail.example.org or pay with 5500 0000 0000 0004 today. STOP not this"
    async with postprocess(stop=["STOP"]) as one, postprocess(stop=["STOP"]) as other:
        _, whole = await post(http, one, input=text)
        out, carry, reply = [], None, {}
        for at in range(0, len(text), 5):
            final = at + 5 >= len(text)
            url = one if at % 2 else other
            status, reply = await post(
                http, url, input=text[at : at + 5], segment={"carry": carry, "final": final}
            )
            assert status == 200
            again = await post(http, url, input=text[at : at + 5], segment={"carry": carry, "final": final})
            assert again[1]["output"] == reply["output"], "a retried segment gives the same"
            out.append(reply["output"])
            carry = reply.get("carry")
    assert (
        "".join(out)
        == whole["output"]
        == "Dear x, reach me at [redacted email] or pay with [redacted card] today."
    )
    assert reply["data"] == whole["data"]
    assert carry is None


async def test_a_malformed_carry_is_refused_without_quoting_it(http):
    async with postprocess() as url:
        status, problem = await post(
            http, url, input="x", segment={"carry": {"redact_held": 3, "secret": "hunter2"}, "final": False}
        )
    assert status == 422
    assert "segment.carry" in problem["detail"]
    assert "hunter2" not in json.dumps(problem)


LIMA = {"city": "Lima"}


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Lima"}',
        ' ```json\n{"city": "Lima"}\n``` ',
        '```\n{"city": "Lima"}\n```',
        '<think>A {city}.</think>\n{"city": "Lima"}',
        '<think>{"city": "Rome"}?</think>\n```json\n{"city": "Lima"}\n```',
        'Here:\n```json\n{"city": "Lima"}\n```\nMore?',
        'the prompt has opened the block</think>{"city": "Lima"}',
        '[THINK]```json\n{}\n```[/THINK] {"city": "Lima"}',
        '\n<seed:think></seed:think>\n\nThe answer is\n  ```JSON\n{"city": "Lima"}\n  ```',
    ],
)
async def test_the_json_of_an_answer_is_found_behind_reasoning_and_within_a_fence(http, text):
    async with postprocess(jsonOutput="refuse", jsonSchema={"required": ["city"]}) as url:
        status, reply = await post(http, url, input=text)
    assert status == 200, reply
    assert reply["data"]["json"] == LIMA


async def test_a_closing_tag_within_a_json_string_is_part_of_the_answer(http):
    value = {"note": "ends in </think> {}"}
    async with postprocess(jsonOutput="refuse") as url:
        status, reply = await post(http, url, input=json.dumps(value))
    assert (status, reply["data"]["json"]) == (200, value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```json\n{}\n```\nor\n```json\n[]\n```", "2 code blocks, must be one"),
        ("<think>{}", "line 1, column 1"),
        ("<think>x</think>", "line 1, column 1"),
        ("```json\n{\n```", "line 2"),
        ("1" * 5000, "digits"),
    ],
)
async def test_an_answer_without_one_json_value_says_what_is_wrong(http, text, said):
    async with postprocess(jsonOutput="refuse") as url:
        status, problem = await post(http, url, input=text)
    assert status == 422
    assert said in problem["detail"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Sure! {}", "line 1, column 1"),
        ('{"a": 1', "line 1"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "deep"),
        ('{"a": "x"}', "$.a does not meet 'type'"),
        ("{}", "$ does not meet 'required'"),
    ],
)
async def test_output_that_is_not_the_json_asked_for_is_refused_or_flagged(http, text, said):
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "required": ["a"],
        "$defs": {"n": {"type": "number"}},
    }
    async with (
        postprocess(jsonOutput="refuse", jsonSchema=schema) as strict,
        postprocess(jsonOutput="flag", jsonSchema=schema) as lenient,
    ):
        status, problem = await post(http, strict, input=text)
        assert status == 422
        assert said in problem["detail"]
        assert problem["retryable"] is False
        status, reply = await post(http, lenient, input=text)
        assert status == 200
        assert said in reply["data"]["json_error"]
        assert reply["output"] == text


async def test_the_json_of_a_stream_is_checked_at_its_end(http):
    async with postprocess(jsonOutput="refuse") as url:
        _, first = await post(http, url, input='{"a"', segment={"carry": None, "final": False})
        assert "json" not in first["data"]
        _, last = await post(http, url, input=": [1]}", segment={"carry": first["carry"], "final": True})
        assert last["data"]["json"] == {"a": [1]}
        status, problem = await post(http, url, input=": ", segment={"carry": first["carry"], "final": True})
        assert status == 422
        assert problem["title"] == "Output is not JSON"


@pytest.mark.parametrize(
    ("carry", "status", "said"),
    [
        ({"redact_held": "x" * 999_999}, 200, None),
        ({"redact_held": "x" * 1_000_000}, 413, "1000001 characters"),
        ({"redact_held": "x" * 600_000, "space_held": " " * 600_000}, 413, "1200001 characters"),
        ({"redact_held": "x" * 1_000_001}, 422, "segment.carry"),
        ({"stop_held": "x" * 257}, 422, "segment.carry"),
        ({"before": "xy"}, 422, "segment.carry"),
        ({"redactions": {"email": -1}}, 422, "segment.carry"),
        ({"redactions": {str(n): n for n in range(9)}}, 422, "segment.carry"),
    ],
)
async def test_a_carry_is_bounded_as_the_input_is(http, carry, status, said):
    async with postprocess() as url:
        answered, body = await post(http, url, input="a", segment={"carry": carry, "final": False})
    assert answered == status
    if said is not None:
        assert said in body["detail"]


@pytest.mark.clock
async def test_a_long_carry_does_not_keep_the_probes_waiting(http):
    """In a thread, so that the event loop answers meanwhile."""
    carry = {"redact_held": "4111 " * 190_000}
    async with postprocess() as url:
        work = asyncio.create_task(post(http, url, input="a", segment={"carry": carry, "final": False}))
        longest = 0.0
        while not work.done():
            began = time.monotonic()
            async with http.get(f"{url}/healthz/live") as response:
                assert response.status == 200
            longest = max(longest, time.monotonic() - began)
        assert (await work)[0] == 200
    assert longest < 1.0


async def test_a_conversation_is_filtered_by_its_last_message(http):
    async with postprocess() as url:
        _, reply = await post(
            http,
            url,
            input=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "ask a@b.org "}],
        )
    assert reply["output"] == "ask [redacted email]"


async def test_as_its_own_process_it_answers_as_a_stream_too(http, tmp_path):
    with stage_process("postprocess", tmp_path, PILOTLIGHT_STAGE_CONFIG='{"redact": ["key"]}') as process:
        await wait_ready(http, process.url)
        async with http.post(
            f"{process.url}/invoke", json={"input": "AKIAIOSFODNN7EXAMPLE a@b.org", "stream": True}
        ) as response:
            assert response.content_type == "text/event-stream"
            text = await response.text()
    assert '"output":"[redacted key] a@b.org"' in text
