"""Fixtures for tests of weights: a model of several parts in a bucket, behind a proxy that injects faults."""

import dataclasses
import hashlib
from collections.abc import Iterator

import pytest

from tests.weights.faults import FaultProxy, fault_proxy
from tests.weights.s3 import S3Server, environment_for
from weights.make_model import MadeModel, make_model
from weights.sources.retry_policy import ReadRetryPolicy

QUICK = ReadRetryPolicy(attempts=8, first_wait=0.01, longest_wait=0.05, connect_timeout=2, read_timeout=1)
"""As many attempts as by default, with shorter waits."""


def digests_of(model) -> dict[str, str]:
    """SHA-256 of every tensor; of two deliveries the later one counts."""
    return {entry.name: hashlib.sha256(data).hexdigest() for entry, data in model}


def reference(folder) -> dict[str, str]:
    """What safetensors' own reader finds."""
    import torch
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                raw = opened.get_tensor(name).reshape(-1).view(torch.uint8)
                found[name] = hashlib.sha256(raw.numpy().tobytes()).hexdigest()
    return found


@dataclasses.dataclass(frozen=True)
class Bucketed:
    """A model in a bucket behind a proxy."""

    made: MadeModel
    uri: str
    expected: dict[str, str]
    proxy: FaultProxy
    server: S3Server


@pytest.fixture
def aws(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture(scope="session")
def parted(tmp_path_factory: pytest.TempPathFactory) -> tuple[MadeModel, dict[str, str]]:
    """Thirty megabytes in two files: several parts in each."""
    made = make_model(tmp_path_factory.mktemp("parted") / "model", size=30_000_000, shard_bytes=16 << 20)
    return made, reference(made.path)


@pytest.fixture(scope="session")
def parted_uri(s3: S3Server, parted) -> str:
    return s3.upload(parted[0].path, "parted", "models/parted")


@pytest.fixture
def bucketed(s3: S3Server, parted, parted_uri, monkeypatch) -> Iterator[Bucketed]:
    with fault_proxy(s3.endpoint) as proxy:
        for name, value in environment_for(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        yield Bucketed(parted[0], parted_uri, parted[1], proxy, s3)
