"""Queues of SQS against moto's server, and what AWS itself would answer."""

import pytest

from tests.triggers.moto_server import MotoServer
from tests.triggers.source_contract import SourceContract


class TestSqs(SourceContract):
    @pytest.fixture
    def broker(self, sqs) -> MotoServer:
        return sqs
