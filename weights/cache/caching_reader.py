"""Files on their way through the cache: fetched, used, and kept for the next start, all at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import threading
from collections.abc import Sequence

from weights.cache.blob import Blob
from weights.cache.cache import Cache
from weights.cache.file_readers import ByteCounter
from weights.cache.part_writers import PartWriter
from weights.cache.partial_file import PartialFile, new_part_digest
from weights.content_hash import ContentHash
from weights.errors import CacheError, IntegrityError
from weights.plan import Part
from weights.sources.ranged_reader import ReaderClosedError
from weights.sources.source import Source

_POLL_SECONDS = 0.02
"""Time between two looks at what another process fetches."""
_COMPLETION_READS = 8
"""Parts fetched at a time after the load."""
_STALLED_SECONDS = 5.0
"""Time without progress of the other process after which a part is fetched without waiting for it."""


class CachingReader:
    """Reads one file: fetches and writes its parts, or reads them as another process fetches and writes."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        partial: PartialFile,
        *,
        writer: PartWriter,
        counter: ByteCounter,
        stop: threading.Event,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            source: of the file.
            cache: that the file goes into.
            partial: the file in that cache.
            writer: of parts into it.
            counter: of bytes.
            stop: ends all waiting when set.
        """
        self.parts = partial.parts
        self.entry = partial.entry
        self.must_verify = partial.entry.checksum is not None
        self.published: Blob | None = None
        """The file in the cache, once it is there."""
        self._source = source
        self._cache = cache
        self._partial = partial
        self._writer = writer
        self._counter = counter
        self._stop = stop
        self._verified = False
        self._given: dict[int, bytes] = {}
        """Digests of the parts that callers of `read` have got."""

    def read(self, part: Part, view: memoryview) -> None:
        """Fill `view` from the cache if the part is there, else from the source."""
        waited = 0.0
        progress = None
        while not self._stop.is_set():
            if self._read_cached(part, view):
                return
            damaged = self._partial.digest(part) is not None
            if self._acquired() or damaged or waited > _STALLED_SECONDS or self._partial.gone:
                # This process is the one that fetches; or the other one wrote damaged bytes, makes no
                # progress, or lost its folder to an operator.
                self._fetch(part, view)
                return
            self._stop.wait(_POLL_SECONDS)
            count = self._partial.count()
            waited = waited + _POLL_SECONDS if count == progress else 0.0
            progress = count
        raise ReaderClosedError

    def delivered(self, parts: Sequence[Part], view: memoryview) -> None:
        """Return: the whole file is verified in the cache."""

    def verify(self) -> None:
        """Wait until all bytes of the file are here and are those that the source declared.

        A checksum that is quick to compute is compared by itself; the SHA-256 by which the file is published
        then need not be waited for (`publish`).

        Raises:
            IntegrityError: they are not; all parts are forgotten, and `read` fetches them again.
            CacheError: the cache failed, and the source declares nothing to compare with.
        """
        checksum = self.entry.checksum
        if checksum is None or not checksum.algorithm.is_quick:
            self.publish()
            return
        with contextlib.suppress(OSError):  # the cache has failed: `publish` then checks without it
            while not self._stop.is_set():
                fetches = self._acquired()
                if fetches:
                    self._writer.drain()
                    self._fetch_missing()
                if self.complete():
                    if self._matches_declared(discard=fetches):
                        return
                    break
                if fetches or self._partial.gone:
                    break
                self._stop.wait(_POLL_SECONDS)
        self.publish()

    def publish(self) -> None:
        """Wait until the file is complete and published, by this process or by another.

        Raises:
            IntegrityError: the bytes are not those that the source declared; as for `verify`.
            CacheError: the cache failed, and the bytes that were read are right as far as that is known.
        """
        while not self._stop.is_set():
            blob = self._cache.blob(self._source.identity, self.entry)
            if blob is not None:
                self._compare(blob.digests)
                self.published = blob
                return
            try:
                if self._acquired():
                    self._writer.drain()
                    self._fetch_missing()
                    self._cache.publish(self._source.identity, self._partial, self._stop)
                elif self._partial.gone and self._cache.blob(self._source.identity, self.entry) is None:
                    raise FileNotFoundError(
                        errno.ENOENT, "was removed while the file was fetched", self._partial.folder
                    )
                else:
                    self._stop.wait(_POLL_SECONDS)
            except OSError as error:
                if not self.must_verify or self._verified:
                    raise CacheError(f"cache folder = {self._cache.root}: {error}") from error
                self._verify_without_cache()
                self._verified = True
                return
        raise ReaderClosedError

    def complete(self) -> bool:
        """Whether all parts are in the cache, whichever process fetched them."""
        return self._partial.digests() is not None

    def pending(self) -> int:
        """Views that are yet to be written."""
        return self._writer.pending()

    def close(self) -> None:
        """Release the lease, once no thread reads any more. What has arrived stays for the next process."""
        self._partial.close()

    def _acquired(self) -> bool:
        try:
            return self._partial.acquire()
        except OSError:
            # The folder is gone: published (the open files then have everything), pruned, or read-only now.
            return False

    def _read_cached(self, part: Part, view: memoryview) -> bool:
        digest = self._partial.read_part(part, view)
        if digest is None:
            return False
        self._given[part.index] = digest
        self._counter.add(cache=part.nbytes)
        return True

    def _fetch(self, part: Part, view: memoryview) -> None:
        if self._read_cached(part, view):  # written between the last look and the lease
            return
        digest = self._given[part.index] = self._read_source(part, view)
        self._writer.put(self._partial, part, view, digest)

    def _read_source(self, part: Part, view: memoryview) -> bytes:
        """Fill `view` with a part, and return the digest of what arrived.

        The digest is taken of each piece as it arrives: reading everything once more from memory would cost
        a part of the network's speed where processors are few.
        """
        digest = new_part_digest()
        self._source.read_into(self.entry, part.begin, view, digest.update)
        self._counter.add(source=part.nbytes)
        return digest.digest()

    def _fetch_missing(self) -> None:
        """Fetch the parts that nobody asked for or that were dropped unwritten."""

        def fetch(part: Part) -> None:
            if self._stop.is_set():
                raise ReaderClosedError
            buffer = memoryview(bytearray(part.nbytes))
            self._partial.write_part(part, buffer, self._read_source(part, buffer))

        missing = [part for part in self.parts if self._partial.digest(part) is None]
        if missing:
            with concurrent.futures.ThreadPoolExecutor(
                min(_COMPLETION_READS, len(missing)), "weights-fetch"
            ) as pool:
                for _ in pool.map(fetch, missing):
                    pass

    def _matches_declared(self, *, discard: bool) -> bool:
        """Compare the file with its declared checksum only.

        Args:
            discard: forget all parts if it does not match; for the process that fetches.

        Returns:
            False if this process cannot tell, or does not fetch: the one that does then decides.

        Raises:
            IntegrityError: it does not match, and all parts are forgotten; or callers of `read` got other
                bytes than it has by now.
        """
        digests = self._partial.digests()
        content = None if digests is None else self._partial.hash(self._stop, need_sha256=False)
        if digests is None or content is None:
            return False
        try:
            content.check()
        except IntegrityError:
            if not discard:
                return False
            self._partial.discard_parts()
            self._given.clear()
            raise
        if self._partial.digests() != digests:
            return False  # parts were fetched again meanwhile: what was hashed may be newer than the digests
        self._compare(digests)
        self._verified = True
        return True

    def _compare(self, digests: Sequence[bytes]) -> None:
        """Check that callers got what was found right in the end: another process may have refetched it."""
        wrong = [index for index, digest in self._given.items() if digests[index] != digest]
        self._given.clear()
        if wrong:
            raise IntegrityError(f"{self.entry.path}: part {min(wrong)} arrived damaged")

    def _verify_without_cache(self) -> None:
        """Read the file once more, for its checksum and the digests of its parts: the cache has failed."""
        content = ContentHash(self.entry.path, self.entry.checksum, need_sha256=False)
        digests = []
        for part in self.parts:
            buffer = memoryview(bytearray(part.nbytes))
            digests.append(self._read_source(part, buffer))
            content.update(buffer)
        try:
            content.check()
        except IntegrityError:
            self._given.clear()
            raise
        self._compare(digests)
