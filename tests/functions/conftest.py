"""Fixtures of the stages' tests."""

import os
from collections.abc import AsyncIterator

import aiohttp
import psutil
import pytest
import pytest_asyncio

from functions.engines.vllm.template_process import TemplateProcess
from tests.weights.s3 import S3Server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that never waits for ever."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


@pytest.fixture
def aws(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, reached by this process through the usual variables."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template(s3: S3Server) -> AsyncIterator[TemplateProcess]:
    """A template process for all tests that fork engines by themselves: importing vLLM takes ten seconds.

    Tests that use it run on the session's event loop.
    """
    processors = sorted(os.sched_getaffinity(0))[:2]
    binding = "|".join(map(str, processors))
    started = await TemplateProcess.start(
        environment={**s3.environment, "VLLM_CPU_OMP_THREADS_BIND": binding}
    )
    try:
        await started.imported()
        yield started
    finally:
        await started.close()
    assert not psutil.pid_exists(started.pid)


# Imported here so that all test modules share one replica per session.
from tests.functions.vllm_replica import warm_replica  # noqa: E402, F401
