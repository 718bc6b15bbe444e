"""One SQS server for all tests of a worker."""

import pytest

from tests.triggers.function_server import serving
from tests.triggers.moto_server import MotoServer, aws_environment, moto_server
from tests.triggers.rig import Rig


@pytest.fixture(scope="session")
def sqs_server(tmp_path_factory):
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def sqs(sqs_server, monkeypatch) -> MotoServer:
    """A running SQS server; the usual chain has credentials for it."""
    for name, value in aws_environment().items():
        monkeypatch.setenv(name, value)
    return sqs_server


@pytest.fixture
async def function():
    """A function that answers 200."""
    async with serving() as running:
        yield running


@pytest.fixture
def rig(sqs, function) -> Rig:
    """A dispatcher's surroundings; its queues are of SQS."""
    return Rig(sqs, function)
