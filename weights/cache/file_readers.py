"""What the readers of one file have in common, whatever the way of its bytes into memory.

    DirectReader     from the source, nothing is kept (`weights.loading.direct_reader`)
    CachingReader    from the source and into the cache, or from the cache as another process fills it
                     (`weights.cache.caching_reader`)
    MappedFile       a file that is on this machine: no copy, every part is checked while it is used
                     (`weights.cache.mapped_file`)

Whoever reads through one of these gets right bytes or an exception.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from weights.plan import Part


class BufferedReader(Protocol):
    """Reads a file's parts into buffers of the caller. Thread-safe."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of the file, in its order."""
        ...

    @property
    def must_verify(self) -> bool:
        """Whether the file's content is known to be right only once `verify` has returned."""
        ...

    def read(self, part: Part, view: memoryview) -> None:
        """Fill `view` with a part."""
        ...

    def delivered(self, parts: Sequence[Part], view: memoryview) -> None:
        """Take note of adjacent parts that have been read into `view`, in the file's order."""
        ...

    def verify(self) -> None:
        """Wait until the whole file is known to be right.

        Raises:
            IntegrityError: it is not. All parts are forgotten, and `read` fetches them again.
        """
        ...

    def pending(self) -> int:
        """How many views this reader still works on in the background."""
        ...

    def close(self) -> None:
        """Give up all resources."""
        ...


class ByteCounter:
    """Bytes by where they came from. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.source = 0
        self.cache = 0

    def add(self, *, source: int = 0, cache: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            self.source += source
            self.cache += cache
