"""A stage as its own process: the port, probes, drain, failure, and what a bad start says."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time

import aiohttp
import pytest

from functions.contract import StageReply
from tests.functions.servers import (
    free_port,
    scripted,
    stage_environment,
    stage_process,
    wait_ready,
    wait_until,
)


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "functions", *arguments],
        env=stage_environment(**{"PORT": str(free_port()), **variables}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_names_the_stages():
    result = run("--help")
    assert result.returncode == 0
    assert all(kind in result.stdout for kind in ("ingest", "generate", "postprocess", "orchestrate"))


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["inget"], {}, ["inget", "ingest, generate, postprocess, orchestrate"]),
        (["ingest"], {"PORT": "http"}, ["PORT", "'http'", "0 to 65535"]),
        (["ingest"], {"PORT": "70000"}, ["PORT", "70000", "65535"]),
        (
            ["ingest"],
            {"PILOTLIGHT_MODEL_URI": "gs://bucket/m"},
            ["PILOTLIGHT_MODEL_URI", "gs://bucket/m", "s3://"],
        ),
        (["ingest"], {"PILOTLIGHT_STAGE_CONFIG": "{"}, ["PILOTLIGHT_STAGE_CONFIG", "JSON"]),
        (["ingest"], {"PILOTLIGHT_STAGE_CONFIG": '{"maxChars": 1}'}, ["PILOTLIGHT_STAGE_CONFIG.maxChars"]),
        (
            ["postprocess"],
            {"PILOTLIGHT_STAGE_CONFIG": '{"jsonSchema": {"$ref": "http://x/y"}}'},
            ["jsonSchema", "http://x/y"],
        ),
        (
            ["orchestrate"],
            {"PILOTLIGHT_STAGES": '[{"name": "a"}]'},
            ["PILOTLIGHT_STAGES", "[0]", "name, kind and url"],
        ),
        (
            ["ingest"],
            {"PILOTLIGHT_WARMTH": "lukewarm"},
            ["PILOTLIGHT_WARMTH", "lukewarm", "hot, asleep, standby"],
        ),
    ],
)
def test_bad_arguments_and_variables_are_one_line_that_says_what_would_be_right(arguments, variables, said):
    result = run(*arguments, **variables)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    for part in said:
        assert part in result.stderr


def test_every_bad_variable_is_reported_at_once():
    result = run("ingest", PORT="x", PILOTLIGHT_DRAIN_SECONDS="-1", PILOTLIGHT_ENGINE="tgi")
    assert all(name in result.stderr for name in ("PORT", "PILOTLIGHT_DRAIN_SECONDS", "PILOTLIGHT_ENGINE"))


def test_a_bad_variable_is_the_termination_message(tmp_path):
    message = tmp_path / "termination-log"
    result = run("ingest", PORT="x", PILOTLIGHT_TERMINATION_LOG=str(message))
    assert result.stderr == f"functions: {message.read_text()}\n"


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("postprocess", PORT=port)
    assert result.returncode == 1
    assert result.stderr == f"functions: PORT = {port}: 127.0.0.1:{port} is in use\n"


async def test_the_port_is_open_while_the_rest_is_still_being_imported(http, tmp_path):
    with stage_process("postprocess", tmp_path) as process:

        def accepts():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", process.port)) == 0

        await wait_until(accepts)
        async with http.get(f"{process.url}/healthz/live") as response:
            assert response.status == 200
            assert (await response.json())["kind"] == "postprocess"


def test_no_engine_is_imported_into_the_process_of_a_stage():
    code = (
        "import sys, functions.__main__, functions.http.app, functions.http.server, functions.logs, functions.stages.ingest,"
        "functions.stages.postprocess, functions.stages.orchestrate, functions.stages.generate;"
        "print([m for m in ('vllm', 'torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=stage_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert result.stdout.strip() == "[]"


async def test_a_start_that_fails_shows_its_cause_logs_it_and_exits_non_zero(http, tmp_path):
    with stage_process(
        "ingest",
        tmp_path,
        PILOTLIGHT_MODEL_URI=str(tmp_path / "nothing"),
        PILOTLIGHT_FAILURE_SECONDS="1.5",
        PILOTLIGHT_TERMINATION_LOG=str(tmp_path / "termination-log"),
    ) as process:
        body = {}

        async def failed():
            try:
                async with http.get(f"{process.url}/healthz/ready") as response:
                    body.update(await response.json())
                    assert response.status == 503
            except aiohttp.ClientError:
                return False
            return body["state"] == "failed"

        await wait_until(failed)
        assert str(tmp_path / "nothing") in body["cause"]
        async with http.get(f"{process.url}/healthz/live") as response:
            assert response.status == 503
        async with http.post(f"{process.url}/invoke", json={"input": "x"}) as response:
            assert response.status == 503
        assert process.wait() == 1
        causes = [line["cause"] for line in process.lines() if line["message"] == "replica failed"]
        assert causes == [body["cause"]]
        assert (tmp_path / "termination-log").read_text() == body["cause"]
        assert "Traceback" not in process.log.read_text()


async def test_a_cold_start_is_one_structured_line_and_one_histogram(http, tmp_path, made_model):
    with stage_process(
        "ingest", tmp_path, PILOTLIGHT_MODEL_URI=str(made_model.path), K_SERVICE="in"
    ) as process:
        await wait_ready(http, process.url)
        async with http.get(f"{process.url}/metrics") as response:
            page = await response.text()
    (line,) = [line for line in process.lines() if line["message"] == "cold start"]
    assert line["stage"] == line["service"] == "in"
    assert set(line["phases"]) == {"import", "weights", "init"}
    assert line["total_seconds"] > 0
    for phase in ("import", "weights", "init", "total"):
        assert (
            f'pilotlight_cold_start_seconds_count{{kind="ingest",phase="{phase}",stage="in",warmth="cold"}} 1.0'
            in page
        )
    assert 'pilotlight_replica_state{kind="ingest",pilotlight_replica_state="hot",stage="in"} 1.0' in page


async def test_a_request_that_was_held_for_the_start_carries_its_phases(http, tmp_path, made_model):
    with stage_process("ingest", tmp_path, PILOTLIGHT_MODEL_URI=str(made_model.path)) as process:
        await wait_ready(http, process.url)
        timings = []
        for held in ("60", "0"):
            headers = {"X-Pilotlight-Held": held}
            async with http.post(f"{process.url}/invoke", json={"input": "x"}, headers=headers) as response:
                timings.append(response.headers["Server-Timing"])
        assert timings[0].startswith("warmth;desc=cold, import;dur=")
        assert timings[1].startswith("warmth;desc=hot, total;dur=")


class Front:
    """A real orchestrate process in front of a model that answers when the test says so."""

    def __init__(self, process, model, gate):
        self.process, self.model, self.gate = process, model, gate

    def post(self, http, **body):
        return asyncio.create_task(http.post(f"{self.process.url}/invoke", json={"input": "x", **body}))


@pytest.fixture
async def front(http, tmp_path):
    gate = asyncio.Event()

    async def behave(request, context):
        await gate.wait()
        return StageReply(id=request.id, stage="model", output="answer")

    async with scripted(behave) as (model, url):
        stages = json.dumps([{"name": "model", "kind": "generate", "url": url}])
        with stage_process(
            "orchestrate", tmp_path, PILOTLIGHT_STAGES=stages, PILOTLIGHT_DRAIN_SECONDS="10"
        ) as process:
            await wait_ready(http, process.url)
            yield Front(process, model, gate)
            gate.set()


async def test_sigterm_ends_readiness_at_once_finishes_requests_in_flight_and_exits_zero(http, front):
    request = front.post(http)
    await wait_until(lambda: len(front.model.seen) == 1)
    front.process.terminate()

    async def draining():
        async with http.get(f"{front.process.url}/healthz/ready") as response:
            return response.status == 503 and (await response.json())["state"] == "draining"

    await wait_until(draining)
    async with http.get(f"{front.process.url}/healthz/live") as response:
        assert response.status == 200
    late = front.post(http)
    await wait_until(lambda: len(front.model.seen) == 2)
    front.gate.set()
    for task in (request, late):
        async with await task as response:
            assert response.status == 200
            assert (await response.json())["output"] == "answer"
    assert await asyncio.to_thread(front.process.wait) == 0


async def test_an_idle_stage_stops_within_a_second_of_sigterm(http, front):
    front.process.terminate()
    began = time.monotonic()
    assert await asyncio.to_thread(front.process.wait) == 0
    assert time.monotonic() - began < 10


async def test_a_second_signal_ends_the_rest_with_a_retryable_503(http, front):
    request = front.post(http)
    await wait_until(lambda: bool(front.model.seen))
    front.process.terminate()
    await wait_until(lambda: any(line["message"] == "draining" for line in front.process.lines()))
    front.process.process.send_signal(signal.SIGINT)
    async with await request as response:
        problem = await response.json(content_type="application/problem+json")
        assert response.status == 503
        assert problem["title"] == "Replica stopped"
        assert problem["retryable"] is True
    assert await asyncio.to_thread(front.process.wait) == 0


async def test_after_the_grace_period_the_rest_gets_a_retryable_503(http, tmp_path):
    async def never(request, context):
        await asyncio.Event().wait()

    async with scripted(never) as (model, url):
        stages = json.dumps([{"name": "model", "kind": "generate", "url": url}])
        with stage_process(
            "orchestrate", tmp_path, PILOTLIGHT_STAGES=stages, PILOTLIGHT_DRAIN_SECONDS="0.3"
        ) as process:
            await wait_ready(http, process.url)
            request = asyncio.create_task(http.post(f"{process.url}/invoke", json={"input": "x"}))
            await wait_until(lambda: bool(model.seen))
            process.terminate()
            async with await request as response:
                assert response.status == 503
                assert (await response.json(content_type=None))["retryable"] is True
            assert await asyncio.to_thread(process.wait) == 0
            await wait_until(lambda: model.seen[0].cancelled)


async def test_sigterm_before_the_start_is_done_exits_zero(tmp_path, made_model):
    with stage_process("ingest", tmp_path, PILOTLIGHT_MODEL_URI=str(made_model.path)) as process:

        def accepts():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", process.port)) == 0

        await wait_until(accepts)
        process.terminate()
        assert await asyncio.to_thread(process.wait) == 0
