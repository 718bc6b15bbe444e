"""A proxy in front of a real S3 server that injects faults and counts requests."""

import contextlib
import dataclasses
import http.client
import http.server
import re
import socket
import ssl
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclasses.dataclass(frozen=True)
class Request:
    """A GET or HEAD as it arrives; `number` counts the GETs of objects from 1."""

    method: str
    path: str
    query: str
    number: int
    first: int | None
    last: int | None

    @property
    def is_weights(self) -> bool:
        return self.path.endswith(".safetensors") and self.method == "GET"

    @property
    def is_bulk(self) -> bool:
        """A read of tensors, not of a header."""
        return self.is_weights and bool(self.first)


@dataclasses.dataclass(frozen=True)
class Fault:
    """How to change a response. The default changes nothing.

    `after` counts body bytes: with `ending` "reset", "close" or "stall" the connection ends or sleeps there.
    """

    status: int | None = None
    code: str = ""
    xml: str = ""
    """Of the response in place of the server's; with a status alone it is an error."""
    rewrite: Callable[[bytes], bytes] = bytes
    """Changes the body."""
    headers: tuple[tuple[str, str], ...] = ()
    """Replace those of the server; an empty value removes a header."""
    after: int | None = None
    ending: str = "close"
    flip: int | None = None
    pause: float = 0.0


NOTHING = Fault()


class FaultProxy:
    """Forwards to `upstream`, asking `decide` about every request."""

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urllib.parse.urlsplit(upstream)
        assert parts.hostname
        assert parts.port
        self._upstream = (parts.hostname, parts.port)
        self.decide: Callable[[Request], Fault] = lambda _: NOTHING
        self.requests: list[Request] = []
        self.bulk_bytes = 0
        self.remembers = False
        """Caches responses, for tests that read the same objects many times."""
        self._answers: dict[tuple[str, ...], tuple[int, list[tuple[str, str]], bytes]] = {}
        self._lock = threading.Lock()
        self.released = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                proxy._handle(self)

            do_HEAD = do_GET  # noqa: N815 - the server's spelling

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                """Ignore clients that break off: the tests provoke that."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def bulk(self) -> list[Request]:
        return [request for request in self.requests if request.is_bulk]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        match = _RANGE.fullmatch(handler.headers.get("Range", ""))
        url = urllib.parse.urlsplit(handler.path)
        path, query = urllib.parse.unquote(url.path), url.query
        first, last = (int(match[1]), int(match[2])) if match else (None, None)
        with self._lock:
            number = sum(request.is_weights for request in self.requests) + 1
            request = Request(handler.command, path, query, number, first, last)
            self.requests.append(request)
        fault = self.decide(request)
        if fault.pause:
            self.released.wait(fault.pause)
        if fault.xml:
            handler.send_response(200)
            handler.send_header("Content-Type", "application/xml")
            handler.send_header("Content-Length", str(len(fault.xml.encode())))
            for name, value in fault.headers:
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(fault.xml.encode())
            return
        if fault.status is not None:
            body = f"<Error><Code>{fault.code}</Code><Message>as told</Message></Error>".encode()
            handler.send_response(fault.status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return
        status, headers, body = self._answer(handler)
        if fault.flip is not None and first is not None and first <= fault.flip < first + len(body):
            changed = bytearray(body)
            changed[fault.flip - first] ^= 0xFF
            body = bytes(changed)
        body = fault.rewrite(body)
        replaced = {name.lower() for name, _ in fault.headers}
        if fault.rewrite is not bytes:
            replaced.add("content-length")
        headers = [(name, value) for name, value in headers if name.lower() not in replaced]
        headers += [(name, value) for name, value in fault.headers if value]
        if "content-length" in replaced:
            headers.append(("Content-Length", str(len(body))))
        handler.send_response_only(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        with contextlib.suppress(OSError):  # the client gave up
            self._send(handler, request, body, fault)

    def _send(self, handler, request: Request, body: bytes, fault: Fault) -> None:
        if fault.after is None or fault.after >= len(body):
            handler.wfile.write(body)
        else:
            handler.wfile.write(body[: fault.after])
            handler.close_connection = True
            if fault.ending == "stall":
                self.released.wait(30)
            elif fault.ending == "reset":
                linger = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                handler.connection.close()
        with self._lock:
            if request.is_bulk:
                self.bulk_bytes += len(body)

    def _answer(self, handler) -> tuple[int, list[tuple[str, str]], bytes]:
        asked = (handler.command, handler.path, handler.headers.get("Range", ""))
        if self.remembers and asked in self._answers:
            return self._answers[asked]
        answer = self._forward(handler)
        if self.remembers:
            self._answers[asked] = answer
        return answer

    def _forward(self, handler) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("connection", "host")}
            connection.request(handler.command, handler.path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            kept = [
                (name, value)
                for name, value in response.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "keep-alive", "server", "date")
            ]
            if not any(name.lower() == "content-length" for name, _ in kept):
                kept.append(("Content-Length", str(len(body))))
            return response.status, kept, body
        finally:
            connection.close()


@contextlib.contextmanager
def fault_proxy(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream, tls)
    try:
        yield proxy
    finally:
        proxy.close()
