"""Fixtures that several packages' tests share."""

from collections.abc import Iterator

import pytest

from tests.weights.s3 import S3Server, s3_server
from weights.make_model import MadeModel, make_model


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> MadeModel:
    """A small Llama with tokenizer, the same in every run."""
    return make_model(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server; its `environment` points the AWS chain at it."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as server:
        yield server
