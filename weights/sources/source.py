"""The protocol of a source of weights: a folder of objects that can be listed and read in ranges.

All methods block and may be called from many threads at once; callers with an event loop use a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from weights.manifest import FileEntry

Arrived: TypeAlias = Callable[[memoryview], object]
"""Called with each piece of a read, in order, while the piece is still in the processor's cache."""


class Source(Protocol):
    """A folder of objects that can be listed and read in ranges."""

    @property
    def uri(self) -> str:
        """The folder's address."""
        ...

    @property
    def identity(self) -> str:
        """What tells this folder from every other one: the address and the endpoint that resolves it."""
        ...

    def list(self) -> tuple[FileEntry, ...]:
        """Every object below the folder, without checksums. Raises SourceError."""
        ...

    def declare_checksums(self, entries: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """The entries with the checksums that the source declares, or why it declares none that helps.

        Raises:
            ObjectChangedError: an object is another version now.
            SourceError: it cannot be asked.
        """
        ...

    def read_into(
        self, entry: FileEntry, offset: int, view: memoryview, arrived: Arrived | None = None
    ) -> None:
        """Fill `view` from byte `offset` of exactly that version.

        Args:
            entry: of the object.
            offset: first byte to read.
            view: writable.
            arrived: called with each piece of `view` once it holds its bytes, in order.

        Raises:
            ObjectChangedError: the object is another version now.
            SourceError: it cannot be read.
        """
        ...

    def close(self) -> None:
        """Close connections; reads under way end with an error."""
        ...
