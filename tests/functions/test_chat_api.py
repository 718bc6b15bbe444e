"""OpenAI's official client talks to a whole agent: orchestrate and its stages over real HTTP."""

import json

import aiohttp
import openai
import pytest

from functions.contract import Delta, Failure, Final, Problem, StageReply, ToolStart, Usage
from functions.dialogue import FunctionCall, Message, Role, ToolCall
from functions.http.app import create_app
from functions.problems import ProblemError
from functions.settings import FunctionSettings, StageAddress
from functions.stages.orchestrate import build as build_orchestrate
from functions.stages.postprocess import build as build_postprocess
from tests.functions.servers import scripted, serving

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CALL = ToolCall(id="call_7", function=FunctionCall(name="weather", arguments='{"town": "Ulm"}'))
HELLO = [{"role": "user", "content": "hello"}]


class Model:
    """A scripted model's stage: keeps its requests, and answers as it is told."""

    def __init__(self) -> None:
        self.requests = []
        self.text = ["The sea ", "writes to jo.doe@example.org", " and ends."]
        self.calls = ()
        self.problem = None
        self.breaks = False

    async def __call__(self, request, _context):
        self.requests.append(request)
        if self.problem is not None:
            raise self.problem
        for word in self.text:
            yield Delta(word)
        if self.breaks:
            yield Failure(Problem(title="Broken", status=502, detail="the engine broke"))
            return
        for index, call in enumerate(self.calls):
            yield ToolStart(index, call.id, call.function.name)
        text = "".join(self.text)
        message = Message(role=Role.ASSISTANT, content=text or None, tool_calls=self.calls)
        yield Final(
            StageReply(
                id=request.id,
                stage="model",
                output=(message,) if self.calls else text,
                finish_reason="tool_calls" if self.calls else "stop",
                usage=Usage(prompt_tokens=3, completion_tokens=4),
            )
        )


@pytest.fixture
def model():
    return Model()


@pytest.fixture
async def agent(model):
    """The URL of an agent of a scripted model and a real postprocess."""
    post = FunctionSettings(service="post")
    async with (
        scripted(model, kind="generate") as (_, model_url),
        serving(create_app(build_postprocess(post), post)) as post_url,
    ):
        settings = FunctionSettings(
            service="front",
            agent="support",
            stages=(
                StageAddress("model", "generate", model_url),
                StageAddress("post", "postprocess", post_url),
            ),
            stage_config={"wait_initial": 0.01, "wait_max": 0.02, "attempts": 2},
        )
        async with serving(create_app(build_orchestrate(settings), settings)) as url:
            yield url


@pytest.fixture
async def client(agent):
    async with openai.AsyncOpenAI(base_url=f"{agent}/v1", api_key="none", max_retries=0) as opened:
        yield opened


async def test_the_agent_is_listed_as_a_model(client):
    assert [(card.id, card.owned_by) for card in (await client.models.list()).data] == [
        ("support", "pilotlight")
    ]


async def test_a_conversation_goes_through_every_stage(client, model):
    answer = await client.chat.completions.create(
        model="support",
        messages=[{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *HELLO],
        temperature=0,
        max_completion_tokens=20,
        stop="!",
        user="somebody",
        metadata={"ticket": "7"},
    )
    choice = answer.choices[0]
    assert choice.message.content == "The sea writes to [redacted email] and ends."
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 7)
    assert [timing["stage"] for timing in answer.pilotlight["timings"]] == ["model", "post", "front"]
    assert answer.pilotlight["data"]["post"]["redactions"] == {"email": 1}
    asked = model.requests[0]
    assert asked.input[0].role is Role.DEVELOPER
    assert (asked.parameters.max_tokens, asked.parameters.stop) == (20, ("!",))
    assert asked.metadata == {"ticket": "7"}


async def test_a_stream_has_the_same_text_and_its_usage(client):
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="front", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    ]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == (
        "The sea writes to [redacted email] and ends."
    )
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage.total_tokens == 7
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("text", [[], ["Let me look."]])
async def test_calls_of_tools_reach_the_client_and_their_results_the_model(client, model, text):
    model.text, model.calls = text, (CALL,)
    asked = {"model": "support", "messages": HELLO, "tools": [TOOL], "tool_choice": "auto"}
    answer = await client.chat.completions.create(**asked)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content == (text[0] if text else None)
    assert message.tool_calls[0].model_dump() == CALL.model_dump()
    assert model.requests[0].parameters.tools[0].function.name == "weather"

    # The client answers with what it got, nulls and all.
    model.text, model.calls = ["It rains."], ()
    result = {"role": "tool", "tool_call_id": "call_7", "content": '{"sky": "rain"}'}
    follow = [*HELLO, {**message.model_dump(), "annotations": [], "audio": None}, result]
    answer = await client.chat.completions.create(model="support", messages=follow, tools=[TOOL])
    assert answer.choices[0].message.content == "It rains."
    seen = model.requests[1].input
    assert seen[1].tool_calls == (CALL,)
    assert (seen[2].tool_call_id, seen[2].text) == ("call_7", '{"sky": "rain"}')


@pytest.mark.parametrize("text", [[], ["Let me ", "look."]])
async def test_streamed_calls_of_tools_add_up(client, model, text):
    model.text, model.calls = text, (CALL, CALL.model_copy(update={"id": "call_8"}))
    async with client.chat.completions.stream(model="support", messages=HELLO, tools=[TOOL]) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == ("".join(text) or None)
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("call_7", "weather", '{"town": "Ulm"}'),
        ("call_8", "weather", '{"town": "Ulm"}'),
    ]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="model = 'gpt-4o', must be 'front' or 'support'"):
        await client.chat.completions.create(model="gpt-4o", messages=HELLO)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"n": 2}, "n = 2: must be less than or equal to 1"),
        ({"logprobs": True}, "logprobs = True: must be False"),
        ({"extra_body": {"reasoning_effort": "high"}}, "reasoning_effort = 'high': is not known here"),
        ({"temperature": 3}, "temperature = 3: must be less than or equal to 2"),
        ({"messages": []}, "messages = '[]': must have at least 1 item"),
        ({"messages": [{"role": "user"}]}, "content must be given with role user"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "must match pattern"),
    ],
)
async def test_what_cannot_be_followed_is_refused_by_its_name(client, model, members, message):
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        await client.chat.completions.create(**{"model": "support", "messages": HELLO, **members})
    assert message in raised.value.body["message"]
    assert not model.requests


async def test_an_error_of_a_stage_is_one_of_the_api(client, model):
    model.problem = ProblemError(413, "9 tokens over the model's 1024")
    with pytest.raises(openai.APIStatusError, match="9 tokens over") as raised:
        await client.chat.completions.create(model="support", messages=HELLO)
    assert raised.value.status_code == 413


async def test_a_stream_that_breaks_raises_at_the_client(client, model):
    model.breaks = True
    with pytest.raises(openai.APIError, match="the engine broke"):
        async for _ in await client.chat.completions.create(model="support", messages=HELLO, stream=True):
            pass


async def test_the_first_answer_is_given_again_for_an_idempotency_key(client, model):
    asked = {"model": "support", "messages": HELLO, "extra_headers": {"Idempotency-Key": "k-1"}}
    first = await client.chat.completions.create(**asked)
    again = await client.chat.completions.create(**asked)
    assert first.choices == again.choices
    assert len(model.requests) == 1


async def test_a_body_that_is_not_json_and_one_without_messages(agent):
    async with aiohttp.ClientSession() as http:
        for body, status in ((b"{", 400), (b"{}", 422), (b'{"messages": null}', 422), (b"[]", 422)):
            async with http.post(
                f"{agent}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
            ) as response:
                problem = json.loads(await response.read())
                assert (response.status, problem["error"]["status"]) == (status, status)
                assert problem["detail"] == problem["error"]["message"]
