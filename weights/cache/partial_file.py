"""A cached file while it arrives: many writers and readers, any of which may die at any byte.

    partial/HEX/data      the file at its full size; parts are written in place as they come
    partial/HEX/digests   16 bytes per part: the XXH3-128 of what was written there, zeros until then
    partial/HEX/lease     which process fetches

A part's digest is written after the part, and a part counts only if it matches its digest. A torn write, a
crash between the two writes, and a page that a network file system has not passed on yet therefore all look
like a part that is missing, and it is fetched. Two processes that fetch the same part write the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import xxhash

from weights.cache.leases import LeaseManager
from weights.content_hash import ContentHash
from weights.errors import IntegrityError
from weights.manifest import FileEntry
from weights.plan import Part

DIGEST_BYTES = 16
_NO_DIGEST = bytes(DIGEST_BYTES)
_HASH_STEP = 4 << 20


def part_digest(view: memoryview | bytes) -> bytes:
    """The digest of a part: fast enough (tens of GB/s) to check every part at every read."""
    return xxhash.xxh3_128_digest(view)


def new_part_digest() -> xxhash.xxh3_128:
    """The same digest, to be fed piece by piece."""
    return xxhash.xxh3_128()


class PartialFile:
    """One version of an object on its way into the cache. Thread-safe. OSErrors pass through."""

    def __init__(
        self, folder: Path, entry: FileEntry, parts: Sequence[Part], leases: LeaseManager, *, flush: bool
    ) -> None:
        """Open what is there, or begin.

        Args:
            folder: of this version of the object; made if need be.
            entry: the version of the object.
            parts: of the file.
            leases: of this process.
            flush: write a part through to the file server before its digest, so that other hosts never see
                the digest without the part.
        """
        self.folder = folder
        self.entry = entry
        self.parts = tuple(parts)
        self._leases = leases
        self._flush = flush
        folder.mkdir(parents=True, exist_ok=True)
        self._data = _open_at_size(folder / "data", entry.size, reserve=not flush)
        try:
            self._digests = _open_at_size(folder / "digests", DIGEST_BYTES * len(self.parts), reserve=False)
        except OSError:
            os.close(self._data)
            raise
        self._lock = threading.Lock()

    @property
    def lease(self) -> Path:
        """The lease of the process that fetches."""
        return self.folder / "lease"

    @property
    def gone(self) -> bool:
        """Whether the folder no longer exists: published, or removed by an operator."""
        return not self.folder.exists()

    def acquire(self) -> bool:
        """Become the process that fetches, or confirm that it is this one; False while another one is."""
        with self._lock:
            return self._leases.acquire(self.lease)

    def digest(self, part: Part) -> bytes | None:
        """The digest of a part; None while the part is missing."""
        digest = os.pread(self._digests, DIGEST_BYTES, DIGEST_BYTES * part.index)
        return None if digest in (_NO_DIGEST, b"") else digest

    def digests(self) -> tuple[bytes, ...] | None:
        """The digests of all parts; None while any part is missing."""
        digests = self._read_digests()
        return digests if len(digests) == len(self.parts) and _NO_DIGEST not in digests else None

    def count(self) -> int:
        """How many parts have arrived."""
        return sum(digest != _NO_DIGEST for digest in self._read_digests())

    def read_part(self, part: Part, view: memoryview) -> bytes | None:
        """Fill `view` with a part.

        Returns:
            The part's digest; None if the part is missing or does not match it.
        """
        digest = self.digest(part)
        if digest is None:
            return None
        done = 0
        while done < part.nbytes:
            count = os.preadv(self._data, [view[done:]], part.begin + done)
            if count == 0:
                return None
            done += count
        return digest if part_digest(view) == digest else None

    def write_part(self, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part, then its digest."""
        done = 0
        while done < part.nbytes:
            done += os.pwrite(self._data, view[done:], part.begin + done)
        if self._flush:
            os.fdatasync(self._data)
        os.pwrite(self._digests, digest, DIGEST_BYTES * part.index)

    def hash(self, stop: threading.Event, *, need_sha256: bool = True) -> ContentHash | None:
        """The hash of the whole file, with the checksum that the source declares; None if `stop` was set.

        Args:
            stop: gives up when set.
            need_sha256: False computes only what the declared checksum needs.
        """
        content = ContentHash(self.entry.path, self.entry.checksum, need_sha256=need_sha256)
        buffer = bytearray(_HASH_STEP)
        view = memoryview(buffer)
        offset = 0
        while offset < self.entry.size:
            if stop.is_set():
                return None
            count = os.preadv(self._data, [view], offset)
            if count == 0:
                raise IntegrityError(f"{self.folder / 'data'}: ends at byte {offset} of {self.entry.size}")
            content.update(view[:count])
            offset += count
        return content

    def discard_parts(self) -> None:
        """Forget all parts: what arrived is not what the source declared."""
        os.ftruncate(self._digests, 0)
        os.ftruncate(self._digests, DIGEST_BYTES * len(self.parts))

    def remove(self) -> None:
        """Remove the folder after its data was published. Files that others have open stay usable."""
        for name in ("digests", "data"):
            (self.folder / name).unlink(missing_ok=True)
        self._leases.release(self.lease)
        with contextlib.suppress(OSError):  # another process has begun again in it
            self.folder.rmdir()

    def close(self) -> None:
        """Release the lease and the files. What has arrived stays for the next process."""
        with self._lock:
            self._leases.release(self.lease)
            for descriptor in (self._data, self._digests):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._data = self._digests = -1

    def _read_digests(self) -> tuple[bytes, ...]:
        content = os.pread(self._digests, DIGEST_BYTES * len(self.parts), 0)
        return tuple(content[at : at + DIGEST_BYTES] for at in range(0, len(content), DIGEST_BYTES))


def _open_at_size(path: Path, size: int, *, reserve: bool) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(descriptor).st_size < size:
            if reserve:
                # A full disk is noticed before the download, not at its end.
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
