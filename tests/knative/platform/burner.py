"""A container for tests of class hpa: an HTTP server that uses as much of a processor as it is asked to.

`/burn=SECONDS` answers at once and keeps one thread busy for so long.
"""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def burn(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/burn="):
            threading.Thread(target=burn, args=(float(self.path.partition("=")[2]),), daemon=True).start()
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, template, *values):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
