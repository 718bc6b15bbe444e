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


LONGEST_FIRST = (
    "pilotlight/test_demo.py",
    "pilotlight/replay/test_replay_commands.py",
    "triggers/test_promise.py",
    "knative/platform/test_simulated_autoscaler.py",
    "pilotlight/test_agent_end_to_end.py",
    "functions/test_vllm_standby.py",
    "pilotlight/test_up.py",
    "pilotlight/test_experiment_commands.py",
    "warmpool/test_prometheus.py",
    "functions/test_vllm_answers.py",
)
"""Files whose tests take a minute and more, mostly waiting: begun late, one of them would end all alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first; the others stay in their order."""

    def rank(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((n for n, name in enumerate(LONGEST_FIRST) if path.endswith(name)), len(LONGEST_FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def made_model(tmp_path_factory: pytest.TempPathFactory) -> MadeModel:
    """A small Llama with tokenizer, the same in every run."""
    return make_model(tmp_path_factory.mktemp("made") / "model")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server; its `environment` points the AWS chain at it."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as server:
        yield server
