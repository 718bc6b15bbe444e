"""Whether an answer declines, as text, as a JSON body and as a stream; and that a stage counts it."""

import json

import pytest

from functions.contract import Usage
from functions.engines.openai_refusals import LONGEST, refused
from functions.metrics import Metrics
from functions.text.refusals import declines
from functions.timing import TokenTimes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("**I\u2019m sorry**, I won't write this.", True),
        ("  I cannot assist with this request.", True),
        ("As an AI language model, I cannot provide legal advice.", True),
        ("Sorry, I am unable to answer.", True),
        ("I can help you with that.", False),
        ("Unfortunately, a lost password cannot be read again. Reset it:", False),
        ("I can't wait to show you.", False),
        ("", False),
        ("x" * 500 + " I'm sorry, I can't", False),
    ],
)
def test_an_answer_that_declines_is_known_by_its_beginning(text, expected):
    assert declines(text) is expected
    whole = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    assert refused(whole) is expected
    pieces = [text[start : start + 5] for start in range(0, len(text), 5)]
    events = [{"choices": [{"delta": {"content": piece}}]} for piece in ["", *pieces]]
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert refused(stream + b"data: [DONE]\n\n") is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"choices":[{"message":{"refusal":"No."}}]}', True),
        (b'data: {"choices":[{"delta":{},"finish_reason":"content_filter"}]}\n\n', True),
        (b'{"choices":[]}', False),
        (b'{"choices":[3]}', False),
        (b'{"choices":[{"message":"text"}]}', False),
        (b"\xff\x00not json", False),
        (b"[1]" * LONGEST, False),
    ],
)
def test_members_of_the_api_say_so_and_anything_else_does_not(body, expected):
    assert refused(body) is expected


async def test_a_stage_counts_lengths_and_refusals():
    metrics = Metrics(stage="generate", kind="generate")
    metrics.generation(TokenTimes(0.0, (0.1, 0.2)), None)
    metrics.generation(TokenTimes(0.0), Usage(completion_tokens=40), refused=True)
    page = (await metrics.page()).decode()
    where = 'kind="generate",stage="generate"'
    assert f"pilotlight_refusals_total{{{where}}} 1.0" in page
    assert 'pilotlight_answer_tokens_bucket{kind="generate",le="32.0",stage="generate"} 1.0' in page
    assert f"pilotlight_answer_tokens_count{{{where}}} 2.0" in page
