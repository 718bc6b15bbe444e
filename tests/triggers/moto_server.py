"""A real SQS server for tests: moto's, as a process of its own, on a free port of the loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.triggers.source_contract import LEASE_S
from triggers.sources.settings import BrokerSettings
from triggers.spec.brokers import QueueRef, SqsQueue

REGION = "eu-central-1"


class MotoServer:
    """The server, and queues in it. Its messages are in memory: they end with it."""

    durable = False
    refuses_size: int | None = 1_048_577

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._log = folder / "moto.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(self._log.read_text()[-2000:])
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=1),
            ):
                return
            time.sleep(0.05)
        raise RuntimeError("moto's server did not come up")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> Any:
        return boto3.client(
            "sqs",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="AKIATEST",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=30),
        )

    def ref(self, name: str) -> QueueRef:
        return QueueRef(sqs=SqsQueue(queue=name, region=REGION, endpoint=self.endpoint))

    def create(self, *, fifo: bool = False, **attributes: str) -> QueueRef:
        name = f"q-{uuid.uuid4().hex[:12]}" + (".fifo" if fifo else "")
        if fifo:
            attributes["FifoQueue"] = "true"
        self.client().create_queue(QueueName=name, Attributes=attributes)
        return self.ref(name)

    async def queue(self) -> QueueRef:
        return self.create()

    async def ordered_queue(self) -> QueueRef:
        return self.create(fifo=True)

    def missing_queue(self) -> QueueRef:
        return self.ref("there-is-none")

    def settings(self) -> BrokerSettings:
        return BrokerSettings(consumer="default/test", lease_s=LEASE_S)

    def wrong_settings(self) -> None:
        return None  # moto takes any credentials; those of AWS are in test_sqs.py


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[MotoServer]:
    server = MotoServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def aws_environment() -> dict[str, str]:
    """Credentials for a server that checks none, and nothing of this machine's own configuration."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
