"""One request of a replay: how it is put in each dialect, and what is read from the answer."""

import pytest

from pilotlight import invoke
from pilotlight.replay.exchange import Dialect, Exchange, Prompts, dialect_of
from tests.pilotlight.replay.conftest import TIMING, event

CHAIN = [{"stage": "ingest", "seconds": 0.01, "warmth": "cold"}, TIMING]


async def ask(function, path, **options):
    url = f"{function.url}{path}"
    async with invoke.client() as session:
        return await Exchange(url, dialect_of(url), **options).send(session, "one two three", 5)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/default/generate/v1/chat/completions", Dialect.CHAT),
        ("/v1/completions/", Dialect.COMPLETIONS),
        ("/default/orchestrate-support/invoke", Dialect.INVOKE),
        ("/default/echo/", Dialect.GET),
    ],
)
def test_the_path_of_a_url_tells_how_it_is_asked(path, dialect):
    assert dialect_of(f"http://localhost:8080{path}") is dialect


async def test_a_stage_is_asked_for_a_stream_and_its_reply_tells_tokens_and_warmth(function):
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    reply = {"usage": usage, "timings": [{**TIMING, "warmth": "cold", "phases": {"import": 2.5}}]}
    function.pieces = [event({"text": "a"}, "delta"), event({"text": "b"}, "delta"), event(reply, "reply")]
    function.headers = {"Server-Timing": "warmth;desc=cold, import;dur=2500, total;dur=2600, queue;dur=2400"}

    answer = await ask(function, "/invoke", exact=True)

    assert function.bodies == [
        {
            "input": "one two three",
            "parameters": {"max_tokens": 5, "temperature": 0.0, "ignore_eos": True},
            "stream": True,
        }
    ]
    assert answer.error is None
    assert (answer.warmth, answer.queue_s, answer.phases) == ("cold", 2.4, {"import": 2.5})
    assert (answer.input_tokens, answer.output_tokens) == (7, 2)
    assert 0 < answer.ttft_s <= answer.e2e_s
    assert len(answer.itl_s) == 1


async def test_a_stream_that_was_held_tells_its_times_in_a_comment(function):
    reply = event({"usage": {}, "timings": []}, "reply")
    timing = b": server-timing warmth;desc=cold, import;dur=2500, queue;dur=900.5\n\n"
    function.pieces = [
        b": warming phase=import elapsed=0.3s\n\n",
        timing,
        event({"text": "a"}, "delta"),
        reply,
    ]

    answer = await ask(function, "/invoke")
    function.pieces = [function.pieces[0], event({"status": 503, "title": "Full"}, "error")]
    refused = await ask(function, "/invoke")

    assert (answer.warmth, answer.queue_s, answer.phases) == ("cold", 0.9005, {"import": 2.5})
    assert (refused.status, refused.error) == (503, "503 Full")


@pytest.mark.parametrize(("stage", "warmth"), [("generate", "hot"), (None, "cold"), ("ingest", "cold")])
async def test_of_a_chain_the_named_stage_counts_else_the_slowest_start(function, stage, warmth):
    function.pieces = [event({"text": "a"}, "delta"), event({"usage": {}, "timings": CHAIN}, "reply")]
    function.headers = {"Server-Timing": "queue;dur=1"}

    answer = await ask(function, "/invoke", stage=stage)

    assert answer.warmth == warmth
    if stage == "generate":
        assert answer.queue_s == 0.25  # the model's own, not that of the entry
        assert answer.phases == {}  # the prefill is no part of a start


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_an_openai_api_is_asked_for_usage_and_its_last_event_is_awaited(function, path):
    piece = {"delta": {"content": "x"}} if "chat" in path else {"text": "x"}
    role = {"choices": [{"delta": {"role": "assistant"}}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    token = event({"choices": [piece]})
    function.pieces = [event(role), token, token, event(usage), event("[DONE]")]

    answer = await ask(function, path, model="far")
    function.pieces = function.pieces[:-1]
    cut = await ask(function, path)

    body = function.bodies[0]
    assert (body["model"], body["stream_options"]) == ("far", {"include_usage": True})
    assert ("messages" in body) == ("chat" in path)
    assert (answer.error, answer.output_tokens, len(answer.itl_s)) == (None, 2, 1)
    assert cut.error == "the stream ended without its last event"


async def test_failures_are_part_of_the_answer(function):
    function.status = 429
    refused = await ask(function, "/invoke")
    function.status = 200
    function.pieces = [event({"text": "a"}, "delta"), event({"status": 503, "title": "Gone"}, "error")]
    broken = await ask(function, "/invoke")
    function.pieces = [event({"text": "a"}, "delta"), event("nonsense", "reply")]
    nonsense = await ask(function, "/invoke")
    function.released.clear()
    slow = await ask(function, "/invoke", timeout_s=0.1)
    function.url = "http://127.0.0.1:1"
    nobody = await ask(function, "/invoke")

    assert (refused.status, refused.error) == (429, "429 Too Many Requests: queue is full")
    assert broken.error == "503 Gone"
    assert nonsense.error.startswith("JSONDecodeError")
    assert slow.error == "no answer within 0.1 s"
    assert nobody.unreachable
    assert not refused.unreachable


async def test_anything_else_gets_a_get_and_tells_only_the_activators_queue(function):
    function.headers = {"Server-Timing": "queue;dur=950.25"}

    answer = await ask(function, "/default/echo/")

    assert function.bodies == [{}]
    assert (answer.error, answer.queue_s, answer.warmth, answer.output_tokens) == (None, 0.95025, None, None)


async def test_a_reply_in_one_piece_is_read_too(function):
    function.whole = {"usage": {"prompt_tokens": 1, "completion_tokens": 4}, "timings": [TIMING]}
    answer = await ask(function, "/invoke")
    function.whole = None
    no_reply = await ask(function, "/invoke")

    assert (answer.error, answer.output_tokens, answer.warmth) == (None, 4, "hot")
    assert no_reply.error == "the answer is not JSON"


def test_prompts_differ_from_their_first_word_on_and_learn_the_length_of_tokens():
    prompts = Prompts(seed=1)
    first = {prompts.make(20).split()[0] for _ in range(50)}
    prompts.learn("one two three four", 8)

    assert len(first) > 20
    assert len(prompts.make(20).split()) == 10
