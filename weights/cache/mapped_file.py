"""Files on this machine, mapped into memory: no copy, and replicas on a host share the page cache."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path

from weights.cache.blob import Blob
from weights.cache.cache import Cache
from weights.cache.file_readers import ByteCounter
from weights.cache.partial_file import part_digest
from weights.errors import CacheError, IntegrityError
from weights.manifest import FileEntry
from weights.plan import Part
from weights.sources.source import Source

_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14
# Python's own mmap.madvise keeps the interpreter lock for as long as the disk takes to deliver.
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class MappedFile:
    """A mapped file. Where the digests of its parts are known, damaged parts are repaired. Thread-safe."""

    def __init__(
        self,
        path: Path,
        parts: Sequence[Part],
        counter: ByteCounter,
        *,
        blob: Blob | None = None,
        repair: tuple[Cache, Source, FileEntry] | None = None,
    ) -> None:
        """Map a file.

        Args:
            path: of the file.
            parts: of the file.
            counter: of bytes.
            blob: whose digests the parts must match; they are not checked when None.
            repair: where the right bytes of a damaged part go and come from; damage is an error when None.
        """
        self.parts = tuple(parts)
        self.repaired = 0
        """Parts that were found damaged and repaired."""
        self._blob = blob
        self._repair = repair
        self._counter = counter
        self._path = path
        with path.open("rb") as file:
            # Private: an engine that writes into a tensor changes its own copy of that page, and no file.
            self._map = mmap.mmap(
                file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
        self.view = memoryview(self._map)
        """The whole file."""
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def check(self, part: Part) -> bool:
        """Bring a part into memory and compare it with its digest.

        Returns:
            False if the part was damaged and has been repaired.

        Raises:
            IntegrityError: it is damaged and cannot be repaired.
        """
        first = part.begin - part.begin % mmap.PAGESIZE
        # Older kernels refuse this call; pages are then read when they are touched.
        _madvise(self._address + first, part.end - first, _POPULATE_READ)
        self._counter.add(cache=part.nbytes)
        if self._blob is None:
            return True
        view = self.view[part.begin : part.end]
        expected = self._blob.digests[part.index]
        if part_digest(view) == expected:
            return True
        right = self._fetch_again(part, expected)
        if self._repair is not None:
            with contextlib.suppress(CacheError):  # read-only: the private copy below is right all the same
                self._repair[0].repair(self._blob, part, right)
        self.repaired += 1
        if part_digest(view) != expected:
            view[:] = right
        return False

    def close(self) -> None:
        """Unmap; if tensors still refer to the map, it goes with the last of them."""
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()

    def _fetch_again(self, part: Part, expected: bytes) -> memoryview:
        damage = f"{self._path}: bytes {part.begin} to {part.end} are damaged in the cache"
        if self._repair is None:
            raise IntegrityError(f"{damage} and there is no source to fetch them from")
        _, source, entry = self._repair
        buffer = memoryview(bytearray(part.nbytes))
        source.read_into(entry, part.begin, buffer)
        self._counter.add(source=part.nbytes)
        if part_digest(buffer) != expected:
            raise IntegrityError(f"{damage} and {source.uri} now holds others")
        return buffer
