"""Fixtures of the stages' tests."""

from collections.abc import AsyncIterator

import aiohttp
import pytest


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that never waits for ever."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


# Imported here so that all test modules share one replica per session.
from tests.functions.vllm_replica import warm_replica  # noqa: E402, F401
