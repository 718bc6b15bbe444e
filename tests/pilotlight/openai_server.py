"""An OpenAI-compatible API with one model, which says two words."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Model(BaseHTTPRequestHandler):
    """Answers as a stream, whatever is asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("application/json", json.dumps({"data": [{"id": "far"}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        chunks: list[dict] = [
            {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in "ab"
        ]
        chunks[-1]["choices"][0]["finish_reason"] = "stop"
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        chunks.append({"choices": [], "usage": usage})
        common = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "far"}
        events = "".join(f"data: {json.dumps(common | chunk)}\n\n" for chunk in chunks)
        self._answer("text/event-stream", events + "data: [DONE]\n\n")

    def _answer(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def openai_server() -> Iterator[str]:
    """A `base-url`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
