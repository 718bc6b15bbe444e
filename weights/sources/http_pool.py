"""Keep-alive HTTP connections to one endpoint, directly or through the proxy that the environment names."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.parse
import urllib.request

from weights.sources.retry_policy import ReadRetryPolicy
from weights.sources.tls import TlsConnection


class PoolClosedError(Exception):
    """The pool was closed."""


def proxy_for(scheme: str, host: str) -> str | None:
    """The URL of the proxy for requests to `host`, from the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

    Requests to this machine never go through a proxy, which could not reach it.
    """
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


class ConnectionPool:
    """Connections to one endpoint. Thread-safe."""

    def __init__(
        self, scheme: str, host: str, port: int | None, *, ca_file: str | None, retry: ReadRetryPolicy
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            scheme: http or https.
            host: of the endpoint.
            port: of the endpoint; the scheme's own when None.
            ca_file: certificate authorities to trust; the system's own when None.
            retry: for its time-outs.
        """
        self._host = host
        self._port = port
        self._tls = ssl.create_default_context(cafile=ca_file) if scheme == "https" else None
        self._retry = retry
        proxy = proxy_for(scheme, host)
        self._proxy = urllib.parse.urlsplit(proxy) if proxy else None
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self) -> tuple[http.client.HTTPConnection, bool]:
        """A connection for one request, and whether it is connected already.

        Raises:
            PoolClosedError: `close` was called.
        """
        with self._lock:
            if self._closed:
                raise PoolClosedError
            connection, connected = (self._idle.pop(), True) if self._idle else (self._new(), False)
            self._busy.add(connection)
        return connection, connected

    def connect(self, connection: http.client.HTTPConnection) -> None:
        """Connect a new connection. OSErrors pass through."""
        connection.connect()
        connection.sock.settimeout(self._retry.read_timeout)

    def give_back(self, connection: http.client.HTTPConnection, *, reusable: bool) -> None:
        """Take a connection back after its request; one that is not reusable is closed."""
        with self._lock:
            self._busy.discard(connection)
            if reusable and connection.sock is not None and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def request_target(self, url: str) -> str:
        """The target of a request line: the whole URL for a proxy, else path and query (RFC 9112, 3.2)."""
        if self._tls is None and self._proxy is not None:
            return url
        parts = urllib.parse.urlsplit(url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def close(self) -> None:
        """Close all connections, those of requests under way included."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                with contextlib.suppress(OSError, AttributeError):  # not connected, or no longer
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for connection in idle:
            connection.close()

    def _new(self) -> http.client.HTTPConnection:
        host, port = self._host, self._port
        if self._proxy is not None:
            host, port = self._proxy.hostname or "", self._proxy.port
        timeout = self._retry.connect_timeout
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        connection = TlsConnection(host, port, timeout=timeout, context=self._tls, server_hostname=self._host)
        if self._proxy is not None:
            connection.set_tunnel(self._host, self._port or 443)
        return connection
