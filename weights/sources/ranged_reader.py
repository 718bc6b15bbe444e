"""Ranged reads over HTTP straight into memory that the caller owns.

Bytes are copied once, from the socket to where they are wanted: no intermediate buffer is allocated, touched
and collected. The interpreter lock is free while the kernel copies, so a few threads fill the network.

A read that breaks is resumed where it broke. Failures that may pass (status 5xx and 429, resets, stalls,
truncated bodies) are repeated after growing, jittered waits, and the count starts again with every byte that
arrives. Failures that stay (403, 404, another version of the object) end the read at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping

from weights.errors import (
    AccessDeniedError,
    NotFoundError,
    ObjectChangedError,
    TransferError,
    UnreachableError,
)
from weights.sources.retry_policy import RetryPolicy

_SLICE = 1 << 20
"""Bytes read at a time; what a broken read has to repeat at most."""
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_OVERLOADED = frozenset({429, 503})
_ERROR_CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class ReaderClosedError(Exception):
    """The reader was closed while a read was under way."""


@dataclasses.dataclass
class _RetryableError(Exception):
    """A failed attempt that may succeed when repeated, and how many bytes it brought all the same."""

    reason: str
    received: int
    overloaded: bool = False
    unconnected: bool = False
    stale: bool = False


@dataclasses.dataclass(frozen=True)
class _Object:
    """The version of the object that is read."""

    url: str
    etag: str | None
    size: int
    uri: str


class RangedReader:
    """Reads ranges of objects below one base URL. Thread-safe; keeps connections alive between reads."""

    def __init__(
        self,
        base_url: str,
        *,
        sign: Callable[[str, Mapping[str, str]], Mapping[str, str]],
        describe: str,
        ca_file: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Prepare a reader; nothing is connected yet.

        Args:
            base_url: scheme, host and path in front of the key.
            sign: from URL and headers to all headers to send, called for every request.
            describe: the endpoint and the credentials in words, for messages.
            ca_file: certificate authorities to trust; the system's own when None.
            retry: attempts, back-off and time-outs.
        """
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"base_url = {base_url!r}, must be http:// or https:// with a host")
        self._base_url = base_url.rstrip("/")
        self._parts = parts
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._sign = sign
        self._describe = describe
        self._retry = retry or RetryPolicy()
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._not_before = 0.0
        self.requests = 0
        """Requests sent so far."""

    def read_into(
        self,
        key: str,
        etag: str | None,
        size: int,
        offset: int,
        view: memoryview,
        *,
        uri: str,
        arrived: Callable[[memoryview], object] | None = None,
    ) -> None:
        """Fill `view` with the object's bytes from `offset` on.

        Args:
            key: below the base URL, not quoted.
            etag: the version to read (as in the `ETag` header); any when None.
            size: the object's size in bytes.
            offset: first byte to read.
            view: writable; `offset + len(view)` must be within the object.
            uri: the object's address for messages.
            arrived: called with each piece of `view` once it holds its bytes, in order.

        Raises:
            SourceError: of the kinds described in `weights.errors`.
            ReaderClosedError: `close` was called.
        """
        target = _Object(f"{self._base_url}/{urllib.parse.quote(key, safe='/-_.~')}", etag, size, uri)
        done = failures = unconnected = 0
        while done < len(view):
            self._pause_while_overloaded()
            try:
                done += self._attempt(target, offset + done, view[done:], arrived)
            except _RetryableError as failure:
                if self._closed.is_set():
                    raise ReaderClosedError from None
                done += failure.received
                if failure.stale:
                    continue  # the server had closed an idle connection: not a failure
                failures = 1 if failure.received else failures + 1
                unconnected = unconnected + 1 if failure.unconnected else 0
                if unconnected >= self._retry.connect_attempts:
                    raise UnreachableError(
                        f"{uri}: no connection to {self._describe} ({failure.reason}, {unconnected} "
                        "attempts); must be an endpoint that answers from here",
                        uri=uri,
                    ) from None
                if failures >= self._retry.attempts:
                    raise TransferError(
                        f"{uri}: byte {offset + done} of {size} could not be read from {self._describe} "
                        f"in {failures} attempts, the last: {failure.reason}",
                        uri=uri,
                    ) from None
                self._back_off(failures, overloaded=failure.overloaded)
            else:
                failures = unconnected = 0

    def close(self) -> None:
        """Close all connections; reads under way end with ReaderClosedError."""
        self._closed.set()
        with self._lock:
            idle, self._idle = self._idle, []
            for connection in self._busy:
                with contextlib.suppress(OSError, AttributeError):  # not connected, or no more
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for connection in idle:
            connection.close()

    def _attempt(
        self,
        target: _Object,
        offset: int,
        view: memoryview,
        arrived: Callable[[memoryview], object] | None,
    ) -> int:
        """One request. Returns the bytes received, all of `view`."""
        last = offset + len(view) - 1
        headers = {"Range": f"bytes={offset}-{last}", "Accept-Encoding": "identity"}
        if target.etag is not None:
            headers["If-Match"] = target.etag
        connection, reused = self._connection()
        received = 0
        with self._lock:
            self._busy.add(connection)
        try:
            if not reused:
                self._connect(connection)
            self.requests += 1
            connection.request(
                "GET", self._request_target(target.url), headers=dict(self._sign(target.url, headers))
            )
            response = connection.getresponse()
            self._check(response, target, offset, last)
            while received < len(view):
                count = response.readinto(view[received : received + _SLICE])
                if count == 0:
                    break
                if arrived is not None:
                    arrived(view[received : received + count])
                received += count
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            gone = isinstance(error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError)
            raise _RetryableError(_reason(error), received, stale=reused and gone and received == 0) from None
        except BaseException:
            connection.close()
            raise
        finally:
            with self._lock:
                self._busy.discard(connection)
        # After a complete body the connection can carry the next request.
        reusable = received == len(view) and response.isclosed() and connection.sock is not None
        if reusable and not self._closed.is_set():
            with self._lock:
                self._idle.append(connection)
        else:
            connection.close()
        if received < len(view):
            raise _RetryableError(f"the body ended after {received} of {len(view)} bytes", received)
        return received

    def _check(self, response: http.client.HTTPResponse, target: _Object, first: int, last: int) -> None:
        """Accept only a response that carries exactly the bytes asked for, of the version asked for."""
        if response.status not in (200, 206):
            self._refuse(response, target.uri)
        served = response.getheader("ETag")
        if target.etag is not None and served is not None and served != target.etag:
            raise ObjectChangedError(
                f"{target.uri}: was replaced during the read (ETag {target.etag}, now {served})",
                uri=target.uri,
            )
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range") or "")
            if match is None or (int(match[1]), int(match[2])) != (first, last):
                got = response.getheader("Content-Range")
                raise _RetryableError(f"asked for bytes {first}-{last}, got {got}", 0)
            total = match[3]
        else:
            total = response.getheader("Content-Length") or "*"
            if (first, last) != (0, target.size - 1):
                raise TransferError(
                    f"{target.uri}: {self._describe} ignores Range; must be an endpoint that serves ranges",
                    uri=target.uri,
                )
        if total not in ("*", str(target.size)):
            raise ObjectChangedError(
                f"{target.uri}: was replaced during the read ({target.size} bytes, now {total})",
                uri=target.uri,
            )

    def _refuse(self, response: http.client.HTTPResponse, uri: str) -> None:
        """Raise the exception that an error status stands for."""
        status = response.status
        code_match = _ERROR_CODE.search(response.read(4096))
        code = code_match[1].decode("ascii", "replace") if code_match else response.reason
        problem = f"{uri}: {status} {code} from {self._describe}"
        if status in (412, 416):
            raise ObjectChangedError(f"{problem}; it was replaced during the read", uri=uri)
        if status in (404, 410):
            raise NotFoundError(f"{problem}; must be an object that exists", uri=uri)
        if status in (401, 403) or (status == 400 and "Token" in code):
            raise AccessDeniedError(f"{problem}; must be allowed s3:GetObject on it", uri=uri)
        if status in _RETRYABLE:
            raise _RetryableError(f"{status} {code}", 0, overloaded=status in _OVERLOADED)
        raise TransferError(problem, uri=uri)

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            raise _RetryableError(_reason(error), 0, unconnected=True) from None
        connection.sock.settimeout(self._retry.read_timeout)

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """An idle connection, or a new one that is not yet connected."""
        if self._closed.is_set():
            raise ReaderClosedError
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        host, port = self._parts.hostname, self._parts.port
        proxy = None
        if host is not None and not urllib.request.proxy_bypass(host):
            proxy = urllib.request.getproxies().get(self._parts.scheme)
        via = urllib.parse.urlsplit(proxy) if proxy else None
        target_host = via.hostname if via else host
        target_port = via.port if via else port
        connection: http.client.HTTPConnection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(
                target_host or "", target_port, timeout=self._retry.connect_timeout, context=self._tls
            )
            if via:
                connection.set_tunnel(host or "", port or 443)
        else:
            connection = http.client.HTTPConnection(
                target_host or "", target_port, timeout=self._retry.connect_timeout
            )
        return connection, False

    def _request_target(self, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        through_proxy = self._tls is None and "http" in urllib.request.getproxies()
        if through_proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
            return url
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def _pause_while_overloaded(self) -> None:
        wait = self._not_before - time.monotonic()
        if wait > 0 and self._closed.wait(wait):
            raise ReaderClosedError

    def _back_off(self, failures: int, *, overloaded: bool) -> None:
        wait = self._retry.wait(failures, random.random())  # noqa: S311 - spreads clients, guards nothing
        if overloaded:
            # The store asks the whole process to slow down, not only the thread that got the response.
            self._not_before = max(self._not_before, time.monotonic() + wait)
        elif self._closed.wait(wait):
            raise ReaderClosedError


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "nothing arrived in time"
    return str(error) or type(error).__name__
