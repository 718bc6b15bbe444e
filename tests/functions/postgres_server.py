"""A real Postgres server for tests, and a fresh database of each kind of the runs' store."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.functions.servers import free_port


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres_server() -> Iterator["Postgres"]:
    """A server of its own, where the machine has one."""
    if postgres_programs() is None:
        pytest.skip("there is no Postgres server on this machine")
    # Not below pytest's folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="pilotlight-postgres-"))
    server = Postgres(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Postgres:
    """A Postgres server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"postgresql://pilotlight@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        programs = postgres_programs()
        assert programs is not None
        self._programs = programs
        # The server refuses to be root.
        self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "nobody", "nogroup")
        self._run("initdb", "-D", str(folder / "data"), "-U", "pilotlight", "-A", "trust", "-N", "-E", "UTF8")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            **self._user,
        )

    def start(self) -> None:
        """Return once it takes connections."""
        ends = time.monotonic() + 60
        while True:
            assert time.monotonic() < ends, (self.folder / "log").read_text()[-2000:]
            # One that was killed leaves children, and the next one refuses to start before they have ended.
            if self.process is None or self.process.poll() is not None:
                self.process = self._spawn()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = ("listen_addresses=127.0.0.1", "shared_buffers=16MB")
        options = [part for setting in settings for part in ("-c", setting)]
        place = ["-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / "postgres", *place, *options], cwd="/", stderr=log, **self._user
            )

    def kill(self) -> None:
        """SIGKILL of the server; its children end once they see it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class Place(NamedTuple):
    """Where runs are kept in a test."""

    config: dict[str, Any]
    variables: dict[str, str]
    url: str
    server: Postgres | None
