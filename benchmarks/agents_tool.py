"""A tool that honours idempotency keys and counts its effects: `python agents_tool.py PORT FILE SECONDS`.

`POST /STEP/invoke` appends ` STEP` to the input, after some time. Its effect is a row in an SQLite file,
written in one transaction with the key, and only for a new key. Shares no code with the project.
"""

import json
import sqlite3
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FILE, SECONDS = sys.argv[2], float(sys.argv[3])
TABLE = "CREATE TABLE IF NOT EXISTS effects (key TEXT PRIMARY KEY, step TEXT, text TEXT)"


class Handler(BaseHTTPRequestHandler):
    """What a user's own container would answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Ready."""
        self.answer({})

    def do_POST(self) -> None:
        """One step."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        step = self.path.split("/")[1]
        time.sleep(SECONDS / 2)
        connection = sqlite3.connect(FILE, timeout=30)
        with connection:
            row = (self.headers["Idempotency-Key"], step, body["input"])
            connection.execute("INSERT OR IGNORE INTO effects VALUES (?, ?, ?)", row)
        connection.close()
        time.sleep(SECONDS / 2)
        self.answer({"id": body["id"], "stage": step, "output": f"{body['input']} {step}"})

    def answer(self, document: object) -> None:
        """Send a document."""
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """One thread for each connection."""

    request_queue_size = 256
    daemon_threads = True


with sqlite3.connect(FILE) as database:
    database.execute(TABLE)
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
