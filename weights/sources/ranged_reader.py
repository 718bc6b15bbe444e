"""Ranged reads over HTTP straight into memory that the caller owns.

Bytes are copied once, from the socket to where they are wanted: no intermediate buffer is allocated, touched
and collected. The interpreter lock is free while the kernel copies, so a few threads fill the network.

A read that breaks is resumed where it broke. Failures that may pass (status 5xx and 429, resets, stalls,
truncated bodies) are repeated after growing, jittered waits, and the count starts again with every byte that
arrives. Failures that stay (403, 404, another version of the object) end the read at once.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping

from weights.errors import TransferError, UnreachableError
from weights.sources.http_pool import ConnectionPool, PoolClosedError
from weights.sources.range_response import ObjectVersion, RetryableError, check
from weights.sources.retry_policy import ReadRetryPolicy

_SLICE = 1 << 20
"""Bytes read at a time; what a broken read has to repeat at most."""


class ReaderClosedError(Exception):
    """The reader was closed while a read was under way."""


class RangedReader:
    """Reads ranges of objects below one base URL. Thread-safe; keeps connections alive between reads."""

    def __init__(
        self,
        base_url: str,
        *,
        sign: Callable[[str, Mapping[str, str]], Mapping[str, str]],
        describe: str,
        ca_file: str | None = None,
        retry: ReadRetryPolicy | None = None,
    ) -> None:
        """Prepare a reader; nothing is connected yet.

        Args:
            base_url: scheme, host and path in front of the key.
            sign: from URL and headers to all headers to send, called for every request.
            describe: endpoint and credentials in words, for messages.
            ca_file: certificate authorities to trust; the system's own when None.
            retry: attempts, back-off and time-outs.
        """
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"base_url = {base_url!r}, must be http:// or https:// with a host")
        self._base_url = base_url.rstrip("/")
        self._sign = sign
        self._describe = describe
        self._retry = retry or ReadRetryPolicy()
        self._pool = ConnectionPool(
            parts.scheme, parts.hostname, parts.port, ca_file=ca_file, retry=self._retry
        )
        self._closed = threading.Event()
        self._not_before = 0.0
        """Monotonic time before which an overloaded store gets no request."""

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
        target = ObjectVersion(f"{self._base_url}/{urllib.parse.quote(key, safe='/-_.~')}", etag, size, uri)
        done = failures = unconnected = 0
        while done < len(view):
            self._pause_while_overloaded()
            try:
                done += self._attempt(target, offset + done, view[done:], arrived)
            except PoolClosedError:
                raise ReaderClosedError from None
            except RetryableError as failure:
                if self._closed.is_set():
                    raise ReaderClosedError from None
                done += failure.received
                if failure.stale:
                    continue
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
        self._pool.close()

    def _attempt(
        self,
        target: ObjectVersion,
        offset: int,
        view: memoryview,
        arrived: Callable[[memoryview], object] | None,
    ) -> int:
        """One request. Returns the bytes received, all of `view`."""
        last = offset + len(view) - 1
        headers = {"Range": f"bytes={offset}-{last}", "Accept-Encoding": "identity"}
        if target.etag is not None:
            headers["If-Match"] = target.etag
        connection, reused = self._pool.take()
        received = 0
        reusable = False
        try:
            if not reused:
                self._connect(connection)
            connection.request(
                "GET", self._pool.request_target(target.url), headers=dict(self._sign(target.url, headers))
            )
            response = connection.getresponse()
            check(response, target, offset, last, endpoint=self._describe)
            while received < len(view):
                count = response.readinto(view[received : received + _SLICE])
                if count == 0:
                    break
                if arrived is not None:
                    arrived(view[received : received + count])
                received += count
            # After a complete body the connection can carry the next request.
            reusable = received == len(view) and response.isclosed()
        except (OSError, http.client.HTTPException) as error:
            gone = isinstance(error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError)
            raise RetryableError(_reason(error), received, stale=reused and gone and received == 0) from None
        finally:
            self._pool.give_back(connection, reusable=reusable)
        if received < len(view):
            raise RetryableError(f"the body ended after {received} of {len(view)} bytes", received)
        return received

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            self._pool.connect(connection)
        except OSError as error:
            raise RetryableError(_reason(error), 0, unconnected=True) from None

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
