"""`python -m triggers` as a process that a test may kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from triggers.spec.trigger import TriggerSpec


class DispatcherProcess:
    """Runs one Trigger from a file."""

    def __init__(self, folder: Path, spec: TriggerSpec, *options: str) -> None:
        self._file = folder / "trigger.yaml"
        self._file.write_text(yaml.safe_dump(json.loads(json.dumps(spec.to_object("test", "default")))))
        self._log = folder / "dispatcher.log"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "triggers", "--trigger", str(self._file), "--host", "127.0.0.1", "--port", "0",
                    "--poll-seconds", "1", "--lease-seconds", "2", *self._options,
                ],
                stdout=output, stderr=output, env=os.environ,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout: float = 30) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def get(self, path: str) -> tuple[int, str]:
        """An answer of health or metrics, once the process serves them."""
        deadline = time.monotonic() + 30
        while True:
            ports = re.findall(r"health and metrics at port (\d+)", self.log)
            if ports:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}{path}", timeout=5) as answer:
                        return answer.status, answer.read().decode()
                except urllib.error.HTTPError as error:
                    return error.code, error.read().decode()
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


def line_count(log: str, text: str) -> int:
    return sum(text in line for line in log.splitlines())
