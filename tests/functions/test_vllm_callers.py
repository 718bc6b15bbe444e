"""The tokens of a request to vLLM count for the key that sent it, and for nobody else's eyes."""

import json

import openai
import pytest

from tests.functions.vllm_replica import NAME, STAGE_TOKEN

pytestmark = pytest.mark.vllm

CALLER = {"X-Pilotlight-Stage-Token": STAGE_TOKEN, "X-Pilotlight-Caller": "ann web"}
BODY = {"model": NAME, "prompt": "hello", "max_tokens": 8, "min_tokens": 8, "temperature": 0}


async def counted(http, replica) -> tuple[float, float]:
    """Prompt and completion tokens of the caller."""
    async with http.get(f"{replica.url}/metrics") as response:
        lines = [
            line for line in (await response.text()).splitlines() if "pilotlight_key_tokens_total" in line
        ]
    found = {
        direction: sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if 'key="ann"' in line and 'team="web"' in line and f'direction="{direction}"' in line
        )
        for direction in ("prompt", "completion")
    }
    return found["prompt"], found["completion"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asks", [False, True])
async def test_tokens_of_whole_answers_and_of_streams_are_counted(http, warm_replica, stream, asks):
    await warm_replica.complete_at_last(http)
    before = await counted(http, warm_replica)
    body = {
        **BODY,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream and asks else {}),
    }
    async with http.post(f"{warm_replica.url}/v1/completions", json=body, headers=CALLER) as response:
        assert response.status == 200
        text = await response.text()
    after = await counted(http, warm_replica)
    assert after[1] - before[1] == 8
    assert after[0] - before[0] >= 1
    if stream:
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        reports = [event for event in events[:-1] if json.loads(event).get("usage")]
        assert len(reports) == (1 if asks else 0)


async def test_the_official_client_sees_no_chunk_without_choices(http, warm_replica):
    await warm_replica.complete_at_last(http)
    async with openai.AsyncOpenAI(
        base_url=f"{warm_replica.url}/v1", api_key="x", default_headers=CALLER, max_retries=0
    ) as client:
        asked = {name: value for name, value in BODY.items() if name != "min_tokens"}
        stream = await client.completions.create(**asked, stream=True)
        assert all(chunk.choices for chunk in [chunk async for chunk in stream])
