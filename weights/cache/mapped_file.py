"""How the bytes of one file come to be in memory: from the source, through the cache, or by mapping.

    Direct    from the source, nothing kept
    Filling   from the source and into the cache, or from the cache as another process fills it
    Mapped    a file that is here: no copy at all, every part checked while it is used

Whoever reads through one of these gets right bytes or an exception.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import hashlib
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from weights.cache.cache import Blob, Cache
from weights.cache.partial_file import digest_of
from weights.errors import CacheError, IntegrityError
from weights.manifest import FileEntry
from weights.plan import Part
from weights.sources.source import Source

_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14
# Python's own mmap.madvise keeps the interpreter lock, for as long as the disk takes to deliver.
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Backing(Protocol):
    """One file's bytes."""

    parts: tuple[Part, ...]
    must_verify: bool
    """Whether the whole file has a checksum that is only known to hold once `verify` returned."""
    repaired: int
    """Parts that were found damaged and put right."""

    def mapped(self) -> memoryview | None:
        """The whole file as memory, if it needs no buffers; then `check` replaces `read`."""
        ...

    def check(self, part: Part) -> bool:
        """Make sure that a part of `mapped` is in memory and right; False if it had to be put right."""
        ...

    def read(self, part: Part, view: memoryview) -> None:
        """Fill `view` with a part."""
        ...

    def delivered(self, parts: Sequence[Part], view: memoryview) -> None:
        """Parts, in the order of the file, that have been read into `view`."""
        ...

    def verify(self) -> None:
        """Wait until the whole file is known to be right.

        Raises:
            IntegrityError: it is not; everything begins anew and `read` fetches it again.
        """
        ...

    def pending(self) -> int:
        """How many views this object still works on by itself."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Counter:
    """Bytes by where they came from; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.source = 0
        self.cache = 0

    def add(self, *, source: int = 0, cache: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            self.source += source
            self.cache += cache


class DirectBacking:
    """From the source, nothing kept. A declared SHA-256 is checked over the parts in the file's order."""

    def __init__(self, source: Source, entry: FileEntry, parts: Sequence[Part], counter: Counter) -> None:
        self.parts = tuple(parts)
        self.must_verify = entry.sha256 is not None
        self.repaired = 0
        self._source = source
        self._entry = entry
        self._counter = counter
        self._hasher = concurrent.futures.ThreadPoolExecutor(1, "weights-hash")
        self._begin_again()

    def mapped(self) -> None:
        """Nothing is mapped."""

    def check(self, part: Part) -> bool:  # noqa: ARG002 - the protocol's
        """Nothing is mapped that could be wrong."""
        return True

    def read(self, part: Part, view: memoryview) -> None:
        """One ranged read."""
        self._source.read_into(self._entry, part.begin, view)
        self._counter.add(source=part.nbytes)

    def delivered(self, parts: Sequence[Part], view: memoryview) -> None:
        """Hash what has been read, beside the thread that uses it."""
        if self.must_verify:
            self._hashed.append(self._hasher.submit(self._hash, parts, view))

    def verify(self) -> None:
        """Compare the SHA-256."""
        for future in self._hashed:
            future.result()
        self._hash_up_to(len(self.parts))
        sha256 = self._digest.hexdigest()
        self._begin_again()
        if sha256 != self._entry.sha256:
            raise IntegrityError(
                f"{self._entry.path}: the bytes that arrived have SHA-256 {sha256}, "
                f"must be {self._entry.sha256}"
            )

    def pending(self) -> int:
        """Views that wait to be hashed."""
        return sum(not future.done() for future in self._hashed)

    def close(self) -> None:
        """End the hashing thread."""
        self._hasher.shutdown(cancel_futures=True)

    def _begin_again(self) -> None:
        self._digest = hashlib.sha256()
        self._next = 0
        self._hashed: list[concurrent.futures.Future[None]] = []

    def _hash(self, parts: Sequence[Part], view: memoryview) -> None:
        self._hash_up_to(parts[0].index)
        self._digest.update(view)
        self._next = parts[-1].index + 1

    def _hash_up_to(self, index: int) -> None:
        """Parts without tensors (the header) are in nobody's view: read them for the hash alone."""
        for part in self.parts[self._next : index]:
            buffer = bytearray(part.nbytes)
            self.read(part, memoryview(buffer))
            self._digest.update(buffer)
        self._next = max(self._next, index)


class MappedBacking:
    """A file that is here. With digests, a damaged part is fetched again and put right."""

    def __init__(
        self,
        path: Path,
        parts: Sequence[Part],
        counter: Counter,
        *,
        blob: Blob | None = None,
        repair: tuple[Cache, Source, FileEntry] | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.must_verify = False
        self.repaired = 0
        self._blob = blob
        self._repair = repair
        self._counter = counter
        self._path = path
        with path.open("rb") as file:
            # Private: an engine that writes into a tensor changes its own copy of that page and no file.
            self._map = mmap.mmap(
                file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
        self._view = memoryview(self._map)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def mapped(self) -> memoryview:
        """The file."""
        return self._view

    def check(self, part: Part) -> bool:
        """Bring a part into memory, and compare it with its digest; False if it had to be put right."""
        first = part.begin - part.begin % mmap.PAGESIZE
        # An older kernel refuses: the pages come when touched.
        _madvise(self._address + first, part.end - first, _POPULATE_READ)
        self._counter.add(cache=part.nbytes)
        if self._blob is None:
            return True
        view = self._view[part.begin : part.end]
        expected = self._blob.digests[part.index]
        if digest_of(view) == expected:
            return True
        right = self._fetch_again(part, expected)
        if self._repair is not None:
            with contextlib.suppress(CacheError):  # read-only: the private copy below is right all the same
                self._repair[0].repair(self._blob, part, right)
        self.repaired += 1
        if digest_of(view) != expected:
            view[:] = right
        return False

    def read(self, part: Part, view: memoryview) -> None:
        """Not used."""

    def delivered(self, parts: Sequence[Part], view: memoryview) -> None:
        """Checked already."""

    def verify(self) -> None:
        """Checked already."""

    def pending(self) -> int:
        """None."""
        return 0

    def close(self) -> None:
        """Unmap, unless tensors still lie in the map; then it goes with the last of them."""
        with contextlib.suppress(BufferError):
            self._view.release()
            self._map.close()

    def _fetch_again(self, part: Part, expected: bytes) -> memoryview:
        damage = f"{self._path}: bytes {part.begin} to {part.end} are damaged in the cache"
        if self._repair is None:
            raise IntegrityError(f"{damage} and there is no source to fetch them from")
        _, source, entry = self._repair
        buffer = memoryview(bytearray(part.nbytes))
        source.read_into(entry, part.begin, buffer)
        self._counter.add(source=part.nbytes)
        if digest_of(buffer) != expected:
            raise IntegrityError(f"{damage} and {source.uri} now holds others")
        return buffer
