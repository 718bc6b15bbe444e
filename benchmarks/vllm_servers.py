"""The servers that the vLLM benchmarks compare, as processes: a Pilotlight replica and vLLM's own server.

Both get the same model, options and environment. A server that is not being measured can be paused (SIGSTOP),
so that it takes no processor time from the other one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

NAME = "bench"
TOKEN = "benchmark"
OPTIONS: dict[str, Any] = {
    "max-model-len": 1024,
    "enforce-eager": True,
    "max-num-seqs": 64,
    "kv-cache-memory-bytes": 256 << 20,
    "seed": 0,
    "dtype": "float32",
}
PATIENCE = 240.0


def free_port() -> int:
    """A port that no process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server of OpenAI's API: its process, URL, start and log."""

    process: subprocess.Popen[bytes]
    url: str
    began: float
    log: Path

    def tree(self) -> list[psutil.Process]:
        """The process with all its descendants."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop all its processes for the block."""
        for process in self.tree():
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self.tree():
                process.send_signal(signal.SIGCONT)

    def rss_mib(self) -> float:
        """Resident memory of all its processes together; a shared page counts for each of them."""
        return sum(_or_zero(lambda p=p: p.memory_info().rss) for p in self.tree()) / (1 << 20)

    def private_mib(self) -> float:
        """Memory that would become free if it ended (unique set size)."""
        return sum(_or_zero(lambda p=p: p.memory_full_info().uss) for p in self.tree()) / (1 << 20)

    def stop(self) -> None:
        """End it with all its descendants."""
        tree = self.tree() if self.process.poll() is None else []
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for process in psutil.wait_procs(tree, timeout=15)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def first_token(self, prompt: str = "hello", patience: float = PATIENCE) -> float:
        """Request until it answers; returns the instant (monotonic) of a stream's first token."""
        body = {"model": NAME, "prompt": prompt, "max_tokens": 2, "temperature": 0, "stream": True}
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(request, timeout=patience) as response:
                    if response.readline().startswith(b"data: {"):
                        return time.monotonic()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.01)
        raise TimeoutError(f"{self.url} gave no token within {patience} s")


def _or_zero(read: Callable[[], int]) -> int:
    """Bytes of a process; 0 for one that has just ended."""
    try:
        return read()
    except psutil.NoSuchProcess:
        return 0


@contextlib.contextmanager
def plain_vllm(model: Path, folder: Path) -> Iterator[Server]:
    """`python -m vllm.entrypoints.openai.api_server`, as its documentation starts it."""
    port = free_port()
    argv = [f"--{key}" if value is True else f"--{key}={value}" for key, value in OPTIONS.items()]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)]
    command += [*argv, "--disable-uvicorn-access-log"]
    with _server(command, f"http://127.0.0.1:{port}", folder / "vllm.log", {}) as server:
        yield server


@contextlib.contextmanager
def replica(
    model: Path | str, folder: Path, *, config: Mapping[str, Any] | None = None, **variables: str
) -> Iterator[Server]:
    """`python -m functions generate`."""
    port = free_port()
    environment = {
        "PORT": str(port),
        "PILOTLIGHT_HOST": "127.0.0.1",
        "PILOTLIGHT_MODEL_URI": str(model),
        "PILOTLIGHT_MODEL_NAME": NAME,
        "PILOTLIGHT_ENGINE_ARGS": json.dumps(OPTIONS),
        "PILOTLIGHT_STAGE_CONFIG": json.dumps(dict(config or {})),
        "PILOTLIGHT_CACHE_DIR": str(folder / "cache"),
        "PILOTLIGHT_ADMIN_TOKEN": TOKEN,
        **variables,
    }
    command = [sys.executable, "-m", "functions", "generate"]
    with _server(command, f"http://127.0.0.1:{port}", folder / "replica.log", environment) as server:
        yield server


@contextlib.contextmanager
def _server(command: list[str], url: str, log: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    common = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("PILOTLIGHT_", "K_"))}
    with log.open("ab") as out:
        began = time.monotonic()
        process = subprocess.Popen(command, env={**ours, **common, **variables}, stdout=out, stderr=out)
    server = Server(process, url, began, log)
    try:
        yield server
    finally:
        server.stop()


def call(server: Server, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """One request to a replica's own paths; status and JSON body."""
    request = urllib.request.Request(
        server.url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def wait_for_state(server: Server, *states: str) -> dict[str, Any]:
    """Poll a replica's readiness until it is in one of the states."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the replica ended: {server.log.read_text()[-2000:]}")
        with contextlib.suppress(OSError):
            _, view = call(server, "/healthz/ready")
            if view["state"] in states:
                return view
        time.sleep(0.01)
    raise TimeoutError(f"not {' or '.join(states)} within {PATIENCE} s")
