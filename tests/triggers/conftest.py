"""One SQS server for all tests of a worker."""

import pytest

from tests.triggers.moto_server import MotoServer, aws_environment, moto_server


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
