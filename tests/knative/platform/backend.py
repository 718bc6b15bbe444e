"""A container for tests: an HTTP server of the standard library that can fail in many ways.

Environment: PORT; START_DELAY_S before the port opens; READY_AFTER_S until /ready answers 200; EXIT_CODE exits
at once with that code after printing LAST_WORDS; CHILD=1 also starts a child process in a session of its own;
IGNORE_TERM=1 ignores SIGTERM.
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEGUN = time.monotonic()
READY_AFTER_S = float(os.environ.get("READY_AFTER_S", "0"))
STATE = {"ready": True}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.path.startswith("/ready"):
            ready = STATE["ready"] and time.monotonic() - BEGUN >= READY_AFTER_S
            self.answer(200 if ready else 503, {"ready": ready})
        elif self.path.startswith("/env"):
            self.answer(200, dict(os.environ))
        elif self.path.startswith("/slow"):
            time.sleep(float(self.path.partition("=")[2] or "1"))
            self.answer(200, {"pid": os.getpid()})
        elif self.path.startswith("/file"):
            self.answer(200, {"content": Path(self.path.partition("=")[2]).read_text()})
        elif self.path.startswith("/unready"):
            STATE["ready"] = False
            self.answer(200, {})
        else:
            self.answer(
                200,
                {
                    "pid": os.getpid(),
                    "revision": os.environ.get("K_REVISION"),
                    "argv": sys.argv[1:],
                    "cwd": str(Path.cwd()),
                },
            )

    do_POST = do_GET  # noqa: N815  # the library's name

    def log_message(self, template, *values):
        sys.stdout.write(f"{template % values}\n")
        sys.stdout.flush()


if code := os.environ.get("EXIT_CODE"):
    sys.stdout.write(os.environ.get("LAST_WORDS", "last words") + "\n")
    sys.stdout.flush()
    sys.exit(int(code))
if os.environ.get("IGNORE_TERM"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get("CHILD"):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(float(os.environ.get("START_DELAY_S", "0")))
sys.stdout.write("listening\n")
sys.stdout.flush()
ThreadingHTTPServer(
    (os.environ.get("PILOTLIGHT_HOST", "127.0.0.1"), int(os.environ["PORT"])), Handler
).serve_forever()
