"""A function whose start takes as long as a model's, with an error rate, that counts what it answers."""

import http.server
import math
import os
import random
import threading
import time

START_S = float(os.environ.get("START_SECONDS", "0"))
ERRORS = float(os.environ.get("ERRORS", "0"))
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, math.inf)


class Counts:
    """What has been answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes = {200: 0, 500: 0}
        self._buckets = [0] * len(BOUNDS)

    def add(self, status: int, seconds: float) -> None:
        """Count an answer."""
        with self._lock:
            self._codes[status] += 1
            for at, bound in enumerate(BOUNDS):
                self._buckets[at] += seconds <= bound

    def page(self) -> str:
        """The counts under the names of a stage's metrics."""
        with self._lock:
            lines = [
                f'pilotlight_requests_total{{code="{code}"}} {count}' for code, count in self._codes.items()
            ]
            lines += [
                "pilotlight_time_to_first_token_seconds_bucket"
                f'{{le="{"+Inf" if math.isinf(bound) else bound}"}} {count}'
                for bound, count in zip(BOUNDS, self._buckets, strict=True)
            ]
        return "\n".join(lines) + "\n"


COUNTS = Counts()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with its Revision's name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, or fail as often as it is told to."""
        if self.path == "/metrics":
            self._send(200, COUNTS.page())
            return
        began = time.monotonic()
        status = 500 if random.random() < ERRORS else 200
        self._send(status, os.environ.get("K_REVISION", ""))
        COUNTS.add(status, time.monotonic() - began)

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    time.sleep(START_S)
    http.server.ThreadingHTTPServer.request_queue_size = 128
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
