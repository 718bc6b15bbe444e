"""A tool that honours idempotency keys and counts its effects: `python counting_tool.py PORT FOLDER`.

`POST /STEP/invoke` appends ` STEP` to the input. Its effect is a line in FOLDER/effects, written once for each
key. A file FOLDER/hold-STEP makes calls of that step wait: before the effect if it holds `before`, else after.
Calls are lines in FOLDER/calls. It is what a user's own container would be, so it shares no code with the project.
"""

import fcntl
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[2])


def note(name, line):
    with (FOLDER / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def effect(key, line):
    """Once for each key, whatever ends this process when."""
    with (FOLDER / "effects").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if not any(known.startswith(key + " ") for known in file):
            file.write(f"{key} {line}\n")
            file.flush()
            os.fsync(file.fileno())


def hold(step, moment):
    path = FOLDER / f"hold-{step}"
    while path.exists() and path.read_text() == moment:
        time.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(200, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        step = self.path.split("/")[1]
        key = self.headers.get("Idempotency-Key") or "none"
        note("calls", f"{step} {key} {body['input']}")
        failing = FOLDER / f"fail-{step}"
        if failing.exists():
            problem = json.loads(failing.read_text())
            self._answer(problem["status"], problem, "application/problem+json")
            return
        hold(step, "before")
        effect(key, f"{step} {body['input']}")
        hold(step, "after")
        usage = {"prompt_tokens": 2, "completion_tokens": 1}
        self._answer(
            200, {"id": body["id"], "stage": step, "output": f"{body['input']} {step}", "usage": usage}
        )

    def _answer(self, status, document, kind="application/json"):
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
