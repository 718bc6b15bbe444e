"""TLS for connections that carry gigabytes.

Python's `SSLSocket` waits for the socket, reads the head of a record and then its 16 KiB with a system call
each, and gives the interpreter lock away for every one of them. Here the socket is read in large pieces
into memory, from which OpenSSL takes the records (`ssl.MemoryBIO`). On two cores that takes a fifth less
processor time for each byte, and a third less time with several threads (`benchmarks/weights.py --tls`).
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from typing import Any

_RECEIVE_BYTES = 256 * 1024
"""Read from the socket at a time."""


class TlsConnection(http.client.HTTPConnection):
    """An HTTPS connection over a `TlsSocket`.

    Args:
        host: to connect to, or of the proxy; port and the rest as for `http.client.HTTPConnection`.
        context: what is trusted.
        server_hostname: the name that the certificate must have.
    """

    default_port = http.client.HTTPS_PORT

    def __init__(
        self, host: str, port: int | None, *, timeout: float, context: ssl.SSLContext, server_hostname: str
    ) -> None:
        super().__init__(host, port, timeout=timeout)
        self._tls_context = context
        self._server_hostname = server_hostname

    def connect(self) -> None:
        """Connect, through a tunnel if one was set, and shake hands. OSErrors pass through."""
        super().connect()
        try:
            # http.client needs only what `TlsSocket` has of a socket.
            self.sock: Any = TlsSocket(self.sock, self._tls_context, self._server_hostname)
        except BaseException:
            self.close()
            raise


class TlsSocket:
    """The client's side of a TLS session over a connected socket, as far as `http.client` uses a socket.

    One thread uses it at a time; another may shut it down.

    Raises:
        ssl.SSLError, OSError: the handshake failed.
    """

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, server_hostname: str) -> None:
        self._socket = connected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._received = memoryview(bytearray(_RECEIVE_BYTES))
        self._files = 0
        self._closed = False
        self._shake_hands()

    def sendall(self, data: bytes) -> None:
        """Send all bytes. OSErrors pass through."""
        view = memoryview(data)
        while view:
            view = view[self._session.write(view) :]
        self._flush()

    def recv_into(self, buffer: memoryview) -> int:
        """Fill a buffer with what has arrived, at least one byte; 0 at the end. OSErrors pass through."""
        count = 0
        while count < len(buffer):
            try:
                # With a buffer it returns a count, which its type does not say.
                read: Any = self._session.read(len(buffer) - count, buffer[count:])
            except ssl.SSLWantReadError:
                self._flush()  # the peer may have asked for new keys
                if count or not self._receive():
                    break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break  # HTTP tells a complete body from a cut one by its length
            else:
                if not read:
                    break
                count += read
        return count

    def makefile(self, mode: str, *_: object, **__: object) -> io.BufferedReader:
        """A file to read from; the socket stays open until it is closed, too."""
        if mode != "rb":
            raise ValueError(f"mode = {mode!r}, must be 'rb'")
        self._files += 1
        return io.BufferedReader(_TlsFile(self))

    def settimeout(self, seconds: float | None) -> None:
        """Time-out of each read and write on the network."""
        self._socket.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        """End reads and writes under way in other threads."""
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the connection once its last file is closed."""
        self._closed = True
        if self._files == 0:
            self._socket.close()

    def file_closed(self) -> None:
        """A file of `makefile` was closed."""
        self._files -= 1
        if self._closed:
            self.close()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._receive():
                    raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the server closed the connection") from None
            else:
                self._flush()
                return

    def _receive(self) -> int:
        """Take in what the socket has; 0 at its end."""
        count = self._socket.recv_into(self._received)
        if count:
            self._incoming.write(self._received[:count])
        else:
            self._incoming.write_eof()
        return count

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())


class _TlsFile(io.RawIOBase):
    """Reads from a `TlsSocket`."""

    def __init__(self, tls: TlsSocket) -> None:
        self._tls = tls

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._tls.recv_into(memoryview(buffer).cast("B"))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._tls.file_closed()
