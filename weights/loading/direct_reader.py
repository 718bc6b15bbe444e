"""Files read from their source with nothing kept: where there is no cache, or it cannot be used."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence

from weights.cache.file_readers import ByteCounter
from weights.content_hash import ContentHash
from weights.manifest import FileEntry
from weights.plan import Part
from weights.sources.source import Source


class DirectReader:
    """Reads one file from its source. A declared checksum is computed over the parts in the file's order."""

    def __init__(
        self, source: Source, entry: FileEntry, parts: Sequence[Part], counter: ByteCounter, *, verify: bool
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            source: of the file.
            entry: the file.
            parts: of the file.
            counter: of bytes.
            verify: compare the file with its declared checksum, for which all of it must be read.
        """
        self.parts = tuple(parts)
        self.must_verify = verify and entry.checksum is not None
        self._source = source
        self._entry = entry
        self._counter = counter
        self._hasher = concurrent.futures.ThreadPoolExecutor(1, "weights-hash")
        self._begin_again()

    def read(self, part: Part, view: memoryview) -> None:
        """Fill `view` by one ranged read."""
        self._source.read_into(self._entry, part.begin, view)
        self._counter.add(source=part.nbytes)

    def delivered(self, parts: Sequence[Part], view: memoryview) -> None:
        """Hash what has been read, in parallel with the thread that uses it."""
        if self.must_verify:
            self._hashed.append(self._hasher.submit(self._hash, parts, view))

    def verify(self) -> None:
        """Compare the checksum.

        Raises:
            IntegrityError: the bytes are not those that the source declared.
        """
        for future in self._hashed:
            future.result()
        self._hash_up_to(len(self.parts))
        content = self._content
        self._begin_again()
        content.check()

    def pending(self) -> int:
        """Views that are yet to be hashed."""
        return sum(not future.done() for future in self._hashed)

    def close(self) -> None:
        """End the hashing thread."""
        self._hasher.shutdown(cancel_futures=True)

    def _begin_again(self) -> None:
        self._content = ContentHash(self._entry.path, self._entry.checksum, need_sha256=False)
        self._next = 0
        self._hashed: list[concurrent.futures.Future[None]] = []

    def _hash(self, parts: Sequence[Part], view: memoryview) -> None:
        self._hash_up_to(parts[0].index)
        self._content.update(view)
        self._next = parts[-1].index + 1

    def _hash_up_to(self, index: int) -> None:
        """Read parts without tensors (the header), which nobody asked for, only to hash them."""
        for part in self.parts[self._next : index]:
            buffer = bytearray(part.nbytes)
            self.read(part, memoryview(buffer))
            self._content.update(memoryview(buffer))
        self._next = max(self._next, index)
