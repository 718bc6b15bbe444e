"""Fixtures of the stages' tests."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio
import sqlalchemy as sa

from functions.engines.vllm.template_process import TemplateProcess
from functions.orchestration.runs.run_ids import new_run_id
from tests.functions.postgres_server import Place, Postgres, postgres_server
from tests.functions.run_servers import runs_config
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """See `postgres_server`."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A fresh database of each kind: configuration, variables, address, and its server, if it has one."""
    if request.param == "sqlite":
        path = tmp_path / "runs.sqlite"
        yield Place(runs_config(path), {}, f"sqlite:///{path}", None)
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{new_run_id()}"
    engine = sa.create_engine(
        server.url.replace("postgresql", "postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    url = server.url.replace("/postgres", f"/{name}")
    yield Place(runs_config(None), {"PILOTLIGHT_RUNS_URL": url}, url, server)
