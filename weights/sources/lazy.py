"""A source that is opened when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from weights.manifest import FileEntry
from weights.sources.factory import open_source
from weights.sources.retry_policy import ReadRetryPolicy
from weights.sources.source import Arrived, Source


class LazySource:
    """Opens its source on first use: a start from the cache needs neither client nor network."""

    def __init__(self, uri: str, identity: str, retry: ReadRetryPolicy | None) -> None:
        """Remember the address; nothing is opened yet.

        Args:
            uri: of the source.
            identity: of the source, as it was when the model was pulled.
            retry: attempts and time-outs.
        """
        self.uri = uri
        self.identity = identity
        self._retry = retry
        self._source: Source | None = None
        self._lock = threading.Lock()

    def list(self) -> tuple[FileEntry, ...]:
        """As the source."""
        return self._opened().list()

    def declare_checksums(self, entries: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """As the source."""
        return self._opened().declare_checksums(entries) if entries else ()

    def read_into(
        self, entry: FileEntry, offset: int, view: memoryview, arrived: Arrived | None = None
    ) -> None:
        """As the source."""
        self._opened().read_into(entry, offset, view, arrived)

    def close(self) -> None:
        """Close the source if it was opened."""
        with self._lock:
            if self._source is not None:
                self._source.close()

    def _opened(self) -> Source:
        with self._lock:
            if self._source is None:
                self._source = open_source(self.uri, retry=self._retry)
            return self._source
