"""One platform for all tests of the API: none of them changes how it works for the next one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.knative.platform.api.programs import Program, kn_program, kubectl_program
from tests.knative.platform.api.raw_http import Raw
from tests.knative.platform.conftest import LocalCluster, Running, platform_config


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    started = Running(platform_config(tmp_path_factory.mktemp("platform")))
    yield started
    started.stop()


@pytest.fixture
def raw(local: LocalCluster) -> Raw:
    return Raw(local)


@pytest.fixture
def kubectl(local: LocalCluster, tmp_path: Path) -> Program:
    return kubectl_program(local, tmp_path)


@pytest.fixture
def kn(local: LocalCluster, tmp_path: Path) -> Program:
    return kn_program(local, tmp_path)
