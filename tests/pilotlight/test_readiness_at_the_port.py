"""`readiness: port` on a running platform: ready before it is hot, held requests speak, and the autoscaler sees them."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.pilotlight.conftest import Cli


class SlowApi(ThreadingHTTPServer):
    """An OpenAI-compatible API that says which models it has only once it is let go."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: SlowApi

    def do_GET(self) -> None:
        self.server.let_go.wait(60)
        self.answer("application/json", json.dumps({"data": [{"id": "far"}]}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "far",
            "choices": [choice],
        }
        self.answer("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def slow_api() -> Iterator[SlowApi]:
    with SlowApi() as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        yield api
        api.let_go.set()
        api.shutdown()


def test_a_replica_that_loads_is_ready_holds_its_requests_and_is_scaled_by_them(
    cli: Cli, slow_api, tmp_path: Path
):
    stage = {
        "name": "generate",
        "kind": "generate",
        "readiness": "port",
        "engine": {"type": "openai", "args": {"base-url": slow_api.url, "model": "far"}},
        "scaling": {"max": 2, "containerConcurrency": 2},
    }
    agent = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "demo"},
        "spec": {"model": {"name": "far"}, "stages": [stage]},
    }
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump(agent))
    up = cli.start("up", "--port", "0", "--api-port", "0", "--state", str(cli.state), "-f", str(file))
    output = up.until(lambda text: "demo answers at" in text)
    assert not slow_api.let_go.is_set(), "ready, although its engine is not"
    gateway = json.loads((cli.state / "up.json").read_text())["gateway"]
    api = next(line.split()[1] for line in output.splitlines() if line.strip().startswith("api "))
    body = {"model": "far", "messages": [{"role": "user", "content": "x"}], "stream": True}
    began = threading.Semaphore(0)

    def ask(_: int) -> str:
        request = urllib.request.Request(
            f"{gateway}/default/generate-demo/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            first = response.readline().decode()
            began.release()
            return first + response.read().decode()

    with ThreadPoolExecutor(4) as users:
        asking = [users.submit(ask, number) for number in range(4)]
        assert began.acquire(timeout=60)
        assert began.acquire(timeout=60), "one replica takes containerConcurrency requests while it loads"

        def desired() -> float:
            with urllib.request.urlopen(f"{api}/metrics", timeout=10) as page:
                lines = page.read().decode().splitlines()
            return max(
                float(line.split()[-1]) for line in lines if line.startswith("autoscaler_desired_pods{")
            )

        for _ in range(300):
            if desired() >= 2:
                break
            threading.Event().wait(0.1)
        assert desired() >= 2, "held requests are concurrency"
        slow_api.let_go.set()
        texts = [answer.result(120) for answer in asking]
    assert any(text.startswith(": warming phase=init") for text in texts)
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
