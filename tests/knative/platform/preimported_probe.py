"""A container that says what it was given: `python -m preimported_probe`; exits with EXIT_CODE if it is set."""

import contextlib
import json
import os
import random
import resource
import signal
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def links(folder):
    found = {}
    for entry in Path(folder).iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            found[entry.name] = str(entry.readlink())
    return found


def facts():
    group = Path("/proc/self/cgroup").read_text()
    return {
        "given": {
            "env": {**os.environ},
            "argv": sys.argv,
            "cwd": str(Path.cwd()),
            "path": sys.path,
            "ids": [os.getuid(), os.getgid(), os.getgroups()],
            "parent": os.getppid(),
            "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
            "descriptors": {key: links("/proc/self/fd").get(key) for key in ("0", "1", "2")},
            "signals": {
                number: str(signal.getsignal(number))
                for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP)
            },
            "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "limits": [resource.getrlimit(one) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
            "nice": os.nice(0),
            "name": __name__,
            "mounts": Path("/data/greeting").read_text() if Path("/data/greeting").exists() else None,
        },
        "cgroup": group,
        "open": OPEN,
        "pid": os.getpid(),
        "thread": THREAD,
        "random": [random.random(), str(uuid.uuid4()), os.urandom(8).hex()],
        "inherited": Path("/proc/self/environ").read_text(),
        "command": Path("/proc/self/cmdline").read_text(),
    }


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args):
        pass

    def do_GET(self):
        body = json.dumps(facts()).encode() if self.path == "/facts" else b"{}"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/exit":
            os._exit(7)
        if self.path == "/hungry":
            held.append(bytearray(os.urandom(1 << 20)) * 200)


if __name__ == "__main__":
    OPEN = sorted(links("/proc/self/fd").items())
    held = []
    THREAD = threading.get_native_id()
    signal.pthread_kill(threading.get_ident(), 0)  # fails where the C library has another thread's id
    if "EXIT_CODE" in os.environ:
        sys.stdout.write("last words\n")
        sys.exit(int(os.environ["EXIT_CODE"]))
    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"told to stop\n"), os._exit(0)))
    sys.stdout.write("serving\n")
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
