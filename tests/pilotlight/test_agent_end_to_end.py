"""The example agent on one machine, with real vLLM: what a caller of its function URL meets."""

import asyncio
import json
import re
import shlex
from pathlib import Path

import aiohttp
import psutil
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "support" / "agent.yaml"


@pytest.fixture
def agent(cli, made_model):
    """`pilotlight up` with the example agent, ready; gives the gateway and the process."""
    running = cli.start(
        "up", "-f", str(EXAMPLE), "--model", str(made_model.path), "--port", "0", "--api-port", "0",
        "--state", str(cli.state),
    )  # fmt: skip
    running.until(lambda text: "curl -N" in text, timeout=180)
    return running


def curl_of(output: str) -> tuple[str, dict[str, object]]:
    """URL and body of the curl line that `up` prints."""
    words = shlex.split(next(line for line in output.splitlines() if "curl -N" in line))
    return words[2], json.loads(words[words.index("-d") + 1])


def model_replicas(running) -> list[psutil.Process]:
    """The processes of the model stage's replicas."""
    return [p for p in running.descendants() if p.cmdline()[-2:] == ["functions", "generate"]]


async def test_printed_curl_line_streams_tokens_and_bad_input_is_refused_at_the_door(agent):
    url, body = curl_of(agent.output)
    async with aiohttp.ClientSession() as http:
        async with http.post(url, json=body) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            text = await response.text()
        events = re.findall(r"^event: (\w+)$", text, re.MULTILINE)
        assert events.count("delta") >= 1
        assert events[-1] == "reply"
        reply = json.loads(text.rsplit("data: ", 1)[1])
        assert [timing["stage"] for timing in reply["timings"]][:2] == ["ingest", "generate"]
        assert reply["usage"]["completion_tokens"] == 48
        for bad, status, says in [
            ({"input": "word " * 1500, "parameters": {"max_tokens": 8}}, {413, 422}, "token"),
            ({"input": ""}, {400, 422}, "input"),
            ({"inputs": "x"}, {400, 422}, "inputs"),
            ({"input": "x", "parameters": {"temperature": 9}}, {400, 422}, "temperature"),
        ]:
            async with http.post(url, json=bad) as response:
                problem = await response.json()
                assert response.status in status, problem
                assert response.content_type == "application/problem+json"
                assert says in json.dumps(problem)
                assert problem["retryable"] is False
        # A model's own special token, leaked into the conversation, is text from then on.
        leaked = [("user", "Hi"), ("assistant", "Hello.<|end|>"), ("user", "What is <|system|>?")]
        said = [{"role": role, "content": content} for role, content in leaked]
        async with http.post(url, json={"input": said, "parameters": {"max_tokens": 8}}) as response:
            assert response.status == 200
            assert (await response.json())["usage"]["completion_tokens"] <= 8
        async with http.post(
            url, data=b"{nonsense", headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status in {400, 422}
            assert response.content_type == "application/problem+json"


async def test_killed_replica_hangs_nobody_and_is_replaced(agent):
    url, _ = curl_of(agent.output)
    long = {"input": "Tell me a story.", "parameters": {"max_tokens": 600, "ignore_eos": True}}

    async def call(http: aiohttp.ClientSession) -> tuple[int, dict[str, object]]:
        async with http.post(url, json=long) as response:
            return response.status, await response.json()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
        calls = [asyncio.create_task(call(http)) for _ in range(8)]
        await asyncio.sleep(0.5)
        (before,) = model_replicas(agent)
        before.kill()
        for status, answer in await asyncio.gather(*calls):
            assert status == 200 or answer["retryable"] is True, answer
        status, answer = await call(http)
        assert status == 200
        assert answer["usage"]["completion_tokens"] == 600
    (after,) = model_replicas(agent)
    assert after.pid != before.pid


async def test_wrong_bucket_is_named_and_the_platform_goes_on(cli):
    running = cli.start(
        "up", "-f", str(EXAMPLE), "--model", "s3://no-such-bucket-here/llama", "--port", "0", "--api-port", "0",
        "--state", str(cli.state),
    )  # fmt: skip
    output = running.until(lambda text: "the log: pilotlight logs" in text, timeout=120)
    # The cause alone, once: no lines of the log.
    assert (
        output.count("failed with message: Container failed with: PILOTLIGHT_MODEL_URI = s3://no-such-") == 1
    )
    assert output.count("failed with message") == 1
    assert '{"' not in output
    assert running.process.poll() is None
    assert running.interrupt() == 0
