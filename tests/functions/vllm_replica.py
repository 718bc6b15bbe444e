"""Real generate replicas for tests: a hot one that most tests share, and others where a test needs them."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.functions.servers import StageProcess, stage_process, wait_until
from tests.weights.s3 import S3Server
from weights.make_model import MadeModel

PATIENCE = 120.0
"""A cold start on a busy machine."""
NAME = "tiny"
TOKEN = "a token for tests"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
STAGE_TOKEN = "a-token-of-the-stages-of-an-agent-in-tests"


class VllmReplica:
    """A running replica, with what tests need of it."""

    def __init__(self, stage: StageProcess) -> None:
        self.stage = stage
        self.url = stage.url

    async def view(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.get(f"{self.url}/healthz/ready") as response:
            return {"status": response.status, **await response.json()}

    async def wait_for(self, session: aiohttp.ClientSession, *states: str) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        async def there() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                seen.update(await self.view(session))
            assert self.stage.process.poll() is None, self.stage.log.read_text()[-3000:]
            assert seen.get("state") != "failed", seen
            return seen.get("state") in states

        await wait_until(there, PATIENCE)
        return seen

    async def complete(
        self,
        session: aiohttp.ClientSession,
        prompt: str = "hello",
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> tuple[int, dict[str, Any], Any]:
        """Status, body and headers of one completion."""
        body = {"model": NAME, "prompt": prompt, "max_tokens": 8, "temperature": 0, **more}
        async with session.post(f"{self.url}/v1/completions", json=body, headers=headers) as response:
            return response.status, json.loads(await response.read()), response.headers

    async def complete_at_last(
        self, session: aiohttp.ClientSession, patience: float = 60, **more: Any
    ) -> tuple[int, dict[str, Any], Any]:
        """A completion by a client that retries for as long as the responses allow."""
        deadline = time.monotonic() + patience
        while True:
            status, body, headers = await self.complete(session, **more)
            if status != 503 or not body["retryable"] or time.monotonic() > deadline:
                return status, body, headers
            await asyncio.sleep(0.1)

    async def order(
        self, session: aiohttp.ClientSession, warmth: str, *, wait: bool = True
    ) -> dict[str, Any]:
        body = {"warmth": warmth, "wait": wait}
        async with session.post(f"{self.url}/admin/warmth", json=body, headers=AUTH) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status in {200, 202}, answer
            return answer

    async def metric(self, session: aiohttp.ClientSession, name: str) -> float:
        """Sum of a metric's samples; 0 if there are none."""
        async with session.get(f"{self.url}/metrics") as response:
            text = await response.text()
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{name}{{", f"{name} "))
        ]
        return sum(values)

    @property
    def template(self) -> psutil.Process:
        # A restored one is a child of the command that restored it; a parent comes before its children.
        for child in psutil.Process(self.stage.process.pid).children(recursive=True):
            if "functions.engines.vllm.template" in " ".join(child.cmdline()):
                return child
        raise AssertionError("no template process")

    @property
    def server(self) -> psutil.Process:
        """vLLM's API server."""
        (server,) = self.template.children()
        return server

    @property
    def core(self) -> psutil.Process:
        """vLLM's engine core."""
        (core,) = self.server.children()
        return core

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.stage.process.pid).children(recursive=True)


@contextlib.contextmanager
def vllm_replica(
    model: Path | str,
    folder: Path,
    *,
    args: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **variables: str,
) -> Iterator[VllmReplica]:
    """A replica of the model. Asserts that none of its processes is left afterwards."""
    options = {"max-model-len": 1024, "enforce-eager": True, **(args or {})}
    with stage_process(
        "generate",
        folder,
        PILOTLIGHT_MODEL_URI=str(model),
        PILOTLIGHT_MODEL_NAME=NAME,
        PILOTLIGHT_ENGINE_ARGS=json.dumps(options),
        PILOTLIGHT_STAGE_CONFIG=json.dumps(config or {}),
        PILOTLIGHT_CACHE_DIR=str(folder / "cache"),
        PILOTLIGHT_ADMIN_TOKEN=TOKEN,
        **variables,
    ) as stage:
        replica = VllmReplica(stage)
        try:
            yield replica
        finally:
            left = replica.processes() if stage.process.poll() is None else []
            if stage.process.poll() is None:
                stage.terminate()
                stage.wait(30)
            _, alive = psutil.wait_procs(left, timeout=10)
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            assert not alive, f"left behind: {alive}"


@pytest.fixture(scope="session")
def warm_replica(
    made_model: MadeModel, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmReplica]:
    """One replica for all tests that leave it able to become hot within seconds.

    Its model is in S3, so that all tests cover the cache and the load format `pilotlight`.
    """
    folder = tmp_path_factory.mktemp("warm-replica")
    stage_token = folder / "stage-token"
    stage_token.mkdir()
    (stage_token / "current").write_text(STAGE_TOKEN)
    args = {
        "enable-auto-tool-choice": True,
        "tool-call-parser": "hermes",
        # Random weights would fill a JSON object with blanks for ever.
        "structured-outputs-config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    uri = s3.upload(made_model.path, "warm-replica", "models/tiny")
    environment = {**s3.environment, "PILOTLIGHT_STAGE_TOKEN_DIR": str(stage_token)}
    with vllm_replica(uri, folder, args=args, **environment) as replica:
        deadline = time.monotonic() + PATIENCE
        while b'"state":"hot"' not in _probe(replica):
            assert replica.stage.process.poll() is None, replica.stage.log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield replica


def _probe(replica: VllmReplica) -> bytes:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{replica.url}/healthz/ready", timeout=5) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        return error.read()
    except OSError:
        return b""


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
