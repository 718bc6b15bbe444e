"""Fixtures that several packages' tests share."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.weights.s3 import S3Server, s3_server
from weights.make_model import MadeModel, make_model


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests, and every process that they start, a home of their own.

    vLLM, kubectl, onnxruntime and matplotlib write into the caches of the user who runs them.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # inherited from the process that started the workers
    home = tempfile.mkdtemp(prefix="pilotlight-tests-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]
    os.environ["HOME"] = home


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> MadeModel:
    """A small Llama with tokenizer, the same in every run."""
    return make_model(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server; its `environment` points the AWS chain at it."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as server:
        yield server
