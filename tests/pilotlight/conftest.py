"""The command line as a user runs it: a process, its output, its exit code, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

# A function of the user's own: answers at once, says which replica it is.
ECHO = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"service": os.environ["K_SERVICE"], "path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        print(self.path, flush=True)
http.server.ThreadingHTTPServer((os.environ["PILOTLIGHT_HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def _listen_to_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Cli:
    """Runs `pilotlight` in a home of its own, which is also where it runs."""

    def __init__(self, home: Path, shared: Path) -> None:
        self.home = home
        self.state = home / "state"
        shared.mkdir(parents=True, exist_ok=True)
        (home / ".cache" / "pilotlight").mkdir(parents=True)
        (home / ".cache" / "pilotlight" / "vllm-options").symlink_to(shared)
        self.environment = {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("AWS_", "XDG_", "KUBE"))
            },
            "HOME": str(home),
            "COLUMNS": "120",
            "NO_COLOR": "1",
        }
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self._command(args), env=self.environment, cwd=self.home,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def start(self, *args: str) -> "Running":
        """Start and leave running; ended by the fixture if the test does not."""
        log = (self.home / f"out-{len(self._started)}.txt").open("w+")
        process = subprocess.Popen(
            self._command(args),
            env=self.environment,
            cwd=self.home,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_listen_to_ctrl_c,  # noqa: PLW1509 - one system call, no lock is taken
        )
        self._started.append(process)
        return Running(process, Path(log.name))

    def end(self) -> None:
        """End what still runs, the gentle way first, so that replicas end too."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    @staticmethod
    def _command(args: tuple[str, ...]) -> list[str]:
        return [str(Path(sys.executable).with_name("pilotlight")), *args]


class Running:
    """A `pilotlight` that runs, with its output so far."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[str], bool], timeout: float = 60) -> str:
        """Wait until its output satisfies the condition; the output."""
        deadline = time.monotonic() + timeout
        while not condition(self.output):
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"exit code {self.process.poll()}, output so far:\n{self.output}")
            time.sleep(0.05)
        return self.output

    def descendants(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self, timeout: float = 30) -> int:
        """Ctrl-C; its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout)


@pytest.fixture(scope="session")
def vllm_options(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What vLLM says of its options, which takes a quarter of a minute, for all tests and their processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "vllm-options"


@pytest.fixture
def cli(tmp_path: Path, vllm_options: Path) -> Iterator[Cli]:
    made = Cli(tmp_path, vllm_options)
    yield made
    made.end()


@pytest.fixture
def echo_agent(tmp_path: Path) -> Path:
    """An agent file with one container stage, which needs no model."""
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    document: dict[str, Any] = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "demo"},
        "spec": {
            "stages": [
                {
                    "name": "echo",
                    "kind": "container",
                    "image": "example.com/echo:1",
                    "command": ["python", str(script)],
                    "scaling": {"max": 2, "window": "6s"},
                    "warmPool": {"enabled": False, "windows": [
                        {"name": "always", "from": "00:00", "to": "24:00", "replicas": 1}
                    ]},
                }
            ]
        },
    }  # fmt: skip
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path
