"""A cached file while it arrives: many writers, many readers, any of which may die at any byte.

    filling/HEX/data     the file at its full size, parts in place as they come
    filling/HEX/marks    16 bytes per part: the XXH3-128 of what was written there, zeros until then
    filling/HEX/lease    who is fetching

A mark is written after its part, and a part is read only together with its mark's check. So a torn write, a
crash between the two, a page that a network file system has not passed on yet: all look like a part that is
not there, and it is fetched. Two processes that fetch the same part write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import xxhash

from weights.cache.leases import LeaseKeeper
from weights.errors import IntegrityError
from weights.manifest import FileEntry
from weights.plan import Part

MARK_BYTES = 16
_NO_MARK = bytes(MARK_BYTES)
_HASH_STEP = 4 << 20


def digest_of(view: memoryview | bytes) -> bytes:
    """What a mark holds: fast enough (tens of GB/s) to check every part at every read."""
    return xxhash.xxh3_128_digest(view)


def new_digest() -> xxhash.xxh3_128:
    """The same, fed piece by piece."""
    return xxhash.xxh3_128()


class Filling:
    """One object version on its way into the cache. Thread-safe. OSErrors pass through to the cache."""

    def __init__(
        self, folder: Path, entry: FileEntry, parts: Sequence[Part], keeper: LeaseKeeper, *, flush: bool
    ) -> None:
        """Open what is there, or begin.

        Args:
            folder: made if need be.
            entry: the object's version; its name is part of the folder's.
            parts: of the file.
            keeper: keeps the lease.
            flush: a part goes to the server before its mark does, for other hosts to find both.
        """
        self.folder = folder
        self.entry = entry
        self.parts = tuple(parts)
        self._keeper = keeper
        self._flush = flush
        folder.mkdir(parents=True, exist_ok=True)
        self._data = _open_sized(folder / "data", entry.size, reserve=not flush)
        try:
            self._marks = _open_sized(folder / "marks", MARK_BYTES * len(self.parts), reserve=False)
        except OSError:
            os.close(self._data)
            raise
        self._lock = threading.Lock()

    @property
    def lease(self) -> Path:
        """The lease of the one who fetches."""
        return self.folder / "lease"

    @property
    def gone(self) -> bool:
        """Whether the folder is no longer there: published, or removed by an operator."""
        return not self.folder.exists()

    def own(self) -> bool:
        """Become, or be, the one who fetches; False while somebody else is."""
        with self._lock:
            return self._keeper.take(self.lease)

    def mark(self, part: Part) -> bytes | None:
        """The digest of a part that is there; None if it is not."""
        mark = os.pread(self._marks, MARK_BYTES, MARK_BYTES * part.index)
        return None if mark in (_NO_MARK, b"") else mark

    def marks(self) -> tuple[bytes, ...] | None:
        """The digests of all parts; None unless all are there."""
        size = MARK_BYTES * len(self.parts)
        content = os.pread(self._marks, size, 0)
        marks = tuple(content[at : at + MARK_BYTES] for at in range(0, len(content), MARK_BYTES))
        return marks if len(content) == size and _NO_MARK not in marks else None

    def count(self) -> int:
        """How many parts are there."""
        content = os.pread(self._marks, MARK_BYTES * len(self.parts), 0)
        return sum(content[at : at + MARK_BYTES] != _NO_MARK for at in range(0, len(content), MARK_BYTES))

    def load(self, part: Part, view: memoryview) -> bytes | None:
        """Fill `view` with a part. Returns its digest if it is there and right, else None."""
        mark = self.mark(part)
        if mark is None:
            return None
        done = 0
        while done < part.nbytes:
            count = os.preadv(self._data, [view[done:]], part.begin + done)
            if count == 0:
                return None
            done += count
        return mark if digest_of(view) == mark else None

    def store(self, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part, then its mark."""
        done = 0
        while done < part.nbytes:
            done += os.pwrite(self._data, view[done:], part.begin + done)
        if self._flush:
            os.fdatasync(self._data)
        os.pwrite(self._marks, digest, MARK_BYTES * part.index)

    def sha256(self, stop: threading.Event) -> str | None:
        """Hash the whole file; None if `stop` was set meanwhile."""
        digest = hashlib.sha256()
        buffer = bytearray(_HASH_STEP)
        view = memoryview(buffer)
        offset = 0
        while offset < self.entry.size:
            if stop.is_set():
                return None
            count = os.preadv(self._data, [view], offset)
            if count == 0:
                raise IntegrityError(f"{self.folder / 'data'}: ends at byte {offset} of {self.entry.size}")
            digest.update(view[:count])
            offset += count
        return digest.hexdigest()

    def forget_parts(self) -> None:
        """Take all marks back: what is there is not what was promised."""
        os.ftruncate(self._marks, 0)
        os.ftruncate(self._marks, MARK_BYTES * len(self.parts))

    def remove(self) -> None:
        """Take the folder away once its data was published. Others' open files go on working."""
        for name in ("marks", "data"):
            (self.folder / name).unlink(missing_ok=True)
        self._keeper.drop(self.lease)
        with contextlib.suppress(OSError):  # somebody began again with it: theirs now
            self.folder.rmdir()

    def close(self) -> None:
        """Let go: what is there stays for the next one."""
        with self._lock:
            self._keeper.drop(self.lease)
            for descriptor in (self._data, self._marks):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._data = self._marks = -1


def _open_sized(path: Path, size: int, *, reserve: bool) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(descriptor).st_size < size:
            if reserve:
                # Room is taken now: a full disk shows before the download, not at its end.
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
