"""Five hundred requests of every kind while engines are killed: none is lost, none hangs."""

import asyncio
import collections
import random

import aiohttp
import openai
import pytest

from tests.functions.servers import wait_until
from tests.functions.vllm_replica import NAME, VllmReplica, kill

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180)]

REQUESTS = 500
KILLS = 4


async def _until_answered(ask) -> str:
    """Retry while the response says `retryable`, as clients should."""
    for _ in range(60):
        outcome = await ask()
        if outcome != "again":
            return outcome
        await asyncio.sleep(0.1)
    return "never"


async def test_nothing_is_lost(warm_replica: VllmReplica, http):
    replica = warm_replica
    await replica.order(http, "hot")
    client = openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0)
    random_ = random.Random(7)
    counts: collections.Counter[str] = collections.Counter()
    gate = asyncio.Semaphore(24)

    async def whole() -> str:
        status, body, _ = await replica.complete(http, "whole", max_tokens=24, ignore_eos=True)
        if status in {429, 503} and body["retryable"]:
            return "again"
        return "good" if status == 200 and body["usage"]["completion_tokens"] == 24 else f"whole {status}"

    async def streaming() -> str:
        tokens = 0
        try:
            async for chunk in await client.chat.completions.create(
                model=NAME,
                messages=[{"role": "user", "content": "stream"}],
                max_tokens=24,
                stream=True,
                extra_body={"ignore_eos": True, "stream_options": {"include_usage": True}},
            ):
                if chunk.usage:
                    tokens = chunk.usage.completion_tokens
        except openai.APIError:
            return "again"
        return "good" if tokens == 24 else f"stream with {tokens} tokens"

    async def staged() -> str:
        body = {"input": "stage", "parameters": {"max_tokens": 24, "ignore_eos": True}}
        async with http.post(f"{replica.url}/invoke", json=body) as response:
            reply = await response.json()
        if response.status in {429, 503} and reply["retryable"]:
            return "again"
        return "good" if response.status == 200 else f"staged {response.status}"

    async def leaving() -> str:
        body = {"model": NAME, "prompt": "leave", "max_tokens": 900, "ignore_eos": True, "stream": True}
        async with http.post(f"{replica.url}/v1/completions", json=body) as response:
            if response.status == 503:
                return "again"
            await response.content.readany()
        return "left"

    async def oversized() -> str:
        status, body, _ = await replica.complete(http, "word " * 4000)
        if status == 503 and body.get("retryable"):
            return "again"
        return "refused" if status == 400 else f"oversized {status}"

    async def malformed() -> str:
        async with http.post(
            f"{replica.url}/v1/completions", data=b'{"model": ', headers={"Content-Type": "application/json"}
        ) as response:
            if response.status == 503:
                return "again"
            return "refused" if response.status in {400, 422} else f"malformed {response.status}"

    kinds = [whole] * 6 + [streaming] * 6 + [staged] * 4 + [leaving] * 2 + [oversized, malformed]
    expected: collections.Counter[str] = collections.Counter()

    async def one(kind) -> None:
        async with gate:
            try:
                counts[await _until_answered(kind)] += 1
            except aiohttp.ClientError as error:
                counts[repr(error)] += 1

    tasks = []
    for _ in range(REQUESTS):
        kind = random_.choice(kinds)
        expected["left" if kind is leaving else "refused" if kind in {oversized, malformed} else "good"] += 1
        tasks.append(asyncio.create_task(one(kind)))
    for number in range(1, KILLS + 1):
        while counts.total() < number * REQUESTS / (KILLS + 1):
            await asyncio.sleep(0.05)
        await replica.wait_for(http, "hot")
        kill(replica.core)
    await asyncio.gather(*tasks)

    assert counts == expected
    await replica.wait_for(http, "hot")

    # A disconnect is noticed a moment later.
    async def nothing_left() -> bool:
        view = await replica.view(http)
        return view["in_flight"] == 0 and await replica.metric(http, "vllm:num_requests_running") == 0

    await wait_until(nothing_left, 20)
