"""Files on their way through the cache: fetched, used, and kept for the next one, all at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import queue
import threading
from collections.abc import Sequence
from typing import Protocol

from weights.cache.cache import Cache
from weights.cache.mapped_file import Counter
from weights.cache.partial_file import Filling, new_digest
from weights.errors import CacheError, IntegrityError
from weights.plan import Part
from weights.sources.ranged_reader import ReaderClosedError
from weights.sources.source import Source

_POLL = 0.02
"""Seconds between two looks at what another process fetches."""
_AT_ONCE = 8
"""Parts fetched at a time when the load is over."""
_LOWEST_PRIORITY = 19
"""As `nice` counts: the thread that writes behind takes what the load leaves."""
_PATIENCE = 5.0
"""Seconds without any progress of the other process, after which a part is fetched past it."""


class Writer(Protocol):
    """Puts parts into the cache."""

    def pending(self) -> int:
        """Parts not yet written."""
        ...

    def put(self, filling: Filling, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part."""
        ...

    def drain(self) -> None:
        """Wait until all is written. Raises the OSError that ended writing, if one did."""
        ...


class WriteBehind:
    """Writes parts into the cache while the engine already uses them.

    A start never waits for the cache. The views it is given keep their buffers from being reused until they
    are written, so only some may wait here; what comes on top is let go unwritten. Such parts stay unmarked
    and are fetched once more when the load is over.
    """

    def __init__(self, most_bytes: int) -> None:
        """Start writing.

        Args:
            most_bytes: of the buffers that views which wait to be written keep busy; one may always.
        """
        self._most = most_bytes
        self._jobs: queue.SimpleQueue[tuple[Filling, Part, memoryview, bytes] | None] = queue.SimpleQueue()
        self._pending = 0
        # A view of a few bytes keeps all of its buffer from being reused, so buffers are what counts.
        self._views_of: dict[int, int] = {}
        self._kept_bytes = 0
        self._change = threading.Condition()
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="weights-writer", daemon=True)
        self._thread.start()

    def pending(self) -> int:
        """Parts not yet written."""
        return self._pending

    def put(self, filling: Filling, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part some time soon, unless too many wait or writing has failed before."""
        if self.error is not None:
            return
        buffer, size = id(view.obj), memoryview(view.obj).nbytes
        with self._change:
            if buffer not in self._views_of:
                if self._pending and self._kept_bytes + size > self._most:
                    return
                self._kept_bytes += size
            self._views_of[buffer] = self._views_of.get(buffer, 0) + 1
            self._pending += 1
        self._jobs.put((filling, part, view, digest))

    def drain(self) -> None:
        """Wait until everything put so far is written. Raises the OSError that ended writing, if one did."""
        with self._change:
            self._change.wait_for(lambda: self._pending == 0)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Write what is pending and end."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        # The engine waits for tensors, nobody waits for the cache: let it have the processors first.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while (job := self._jobs.get()) is not None:
            filling, part, view, digest = job
            try:
                if self.error is None:
                    filling.store(part, view, digest)
            except OSError as error:
                # The stream goes on without the cache; whoever opened it says so.
                self.error = error
            buffer, size = id(view.obj), memoryview(view.obj).nbytes
            del job, view  # the buffer is free from here on, not from the next job on
            with self._change:
                self._pending -= 1
                self._views_of[buffer] -= 1
                if not self._views_of[buffer]:
                    del self._views_of[buffer]
                    self._kept_bytes -= size
                self._change.notify_all()


class WriteThrough:
    """Writes at once, for who has nothing else to do with the bytes. OSErrors pass through."""

    def pending(self) -> int:
        """None."""
        return 0

    def put(self, filling: Filling, part: Part, view: memoryview, digest: bytes) -> None:
        """Write a part."""
        filling.store(part, view, digest)

    def drain(self) -> None:
        """All is written."""


class FillingBacking:
    """Through the cache: fetched and written, or read as somebody else fetches and writes."""

    def __init__(
        self,
        source: Source,
        cache: Cache,
        filling: Filling,
        *,
        writer: Writer,
        counter: Counter,
        stop: threading.Event,
    ) -> None:
        """Prepare.

        Args:
            source: of the file.
            cache: that it goes into.
            filling: of the file's version.
            writer: puts parts into the cache.
            counter: of bytes.
            stop: ends all waiting when set.
        """
        self.parts = filling.parts
        self.entry = filling.entry
        self.must_verify = filling.entry.sha256 is not None
        self.repaired = 0
        self.published: str | None = None
        self._source = source
        self._cache = cache
        self._filling = filling
        self._writer = writer
        self._counter = counter
        self._stop = stop
        self._verified = False
        self._given: dict[int, bytes] = {}
        """Digests of the parts that were given to the reader."""

    def mapped(self) -> None:
        """Nothing is mapped yet."""

    def check(self, part: Part) -> bool:  # noqa: ARG002 - the protocol's
        """Nothing is mapped that could be wrong."""
        return True

    def read(self, part: Part, view: memoryview) -> None:
        """Fill `view` from the cache if the part is there, else from the source."""
        waited = 0.0
        progress = None
        while not self._stop.is_set():
            if self._load(part, view):
                return
            damaged = self._filling.mark(part) is not None
            if self._owned() or damaged or waited > _PATIENCE or self._filling.gone:
                # Ours to fetch; or what the other one wrote is damaged; or it makes no progress; or an
                # operator removed the folder.
                self._fetch(part, view)
                return
            self._stop.wait(_POLL)
            count = self._filling.count()
            waited = waited + _POLL if count == progress else 0.0
            progress = count
        raise ReaderClosedError

    def delivered(self, parts: Sequence[Part], view: memoryview) -> None:
        """Nothing to do: the whole file is verified where it lies."""

    def verify(self) -> None:
        """Wait until the file is complete and published, by this process or by another."""
        while not self._stop.is_set():
            blob = self._cache.blob(self._source.identity, self.entry)
            if blob is not None:
                self._compare(blob.digests)
                self.published = blob.sha256
                return
            try:
                if self._owned():
                    self._writer.drain()
                    self._complete()
                elif self._filling.gone and self._cache.blob(self._source.identity, self.entry) is None:
                    raise FileNotFoundError(
                        errno.ENOENT, "was removed while it was filled", self._filling.folder
                    )
                else:
                    self._stop.wait(_POLL)
            except OSError as error:
                if not self.must_verify or self._verified:
                    raise CacheError(f"cache folder = {self._cache.root}: {error}") from error
                self._verify_past_cache()
                self._verified = True
                return
        raise ReaderClosedError

    def complete(self) -> bool:
        """Whether all parts are in the cache, whoever fetched them."""
        return self._filling.marks() is not None

    def pending(self) -> int:
        """Views that wait to be written."""
        return self._writer.pending()

    def close(self) -> None:
        """Let go, once no thread reads any more; what is there stays for the next one."""
        self._filling.close()

    def _owned(self) -> bool:
        try:
            return self._filling.own()
        except OSError:
            # The folder is gone: published (then the open files have everything), pruned, or read-only now.
            return False

    def _load(self, part: Part, view: memoryview) -> bool:
        digest = self._filling.load(part, view)
        if digest is None:
            return False
        self._given[part.index] = digest
        self._counter.add(cache=part.nbytes)
        return True

    def _fetch(self, part: Part, view: memoryview) -> None:
        if self._load(part, view):  # written between the last look and the lease
            return
        digest = self._given[part.index] = self._from_source(part, view)
        self._writer.put(self._filling, part, view, digest)

    def _from_source(self, part: Part, view: memoryview) -> bytes:
        """Fill `view` with a part, and return the digest of what arrived.

        The digest is taken of each piece as it comes: to read all of it once more costs a part of the wire's
        speed where processors are few.
        """
        digest = new_digest()
        self._source.read_into(self.entry, part.begin, view, digest.update)
        self._counter.add(source=part.nbytes)
        return digest.digest()

    def _complete(self) -> None:
        """Fetch the parts that nobody asked for or that were given back unwritten, then publish."""

        def fetch(part: Part) -> None:
            if self._stop.is_set():
                raise ReaderClosedError
            buffer = memoryview(bytearray(part.nbytes))
            self._filling.store(part, buffer, self._from_source(part, buffer))

        missing = [part for part in self.parts if self._filling.mark(part) is None]
        if missing:
            with concurrent.futures.ThreadPoolExecutor(min(_AT_ONCE, len(missing)), "weights-fetch") as pool:
                for _ in pool.map(fetch, missing):
                    pass
        self._cache.publish(self._source.identity, self._filling, self._stop)

    def _compare(self, digests: Sequence[bytes]) -> None:
        """What was given must be what was found right in the end: another process may have refetched it."""
        wrong = [index for index, digest in self._given.items() if digests[index] != digest]
        self._given.clear()
        if wrong:
            raise IntegrityError(f"{self.entry.path}: part {min(wrong)} arrived damaged")

    def _verify_past_cache(self) -> None:
        """The cache failed half-way: read the file once more, for its checksum and for the parts' digests."""
        sha256 = hashlib.sha256()
        digests = []
        for part in self.parts:
            buffer = memoryview(bytearray(part.nbytes))
            digests.append(self._from_source(part, buffer))
            sha256.update(buffer)
        if sha256.hexdigest() != self.entry.sha256:
            self._given.clear()
            raise IntegrityError(
                f"{self.entry.path}: the bytes that arrived have SHA-256 {sha256.hexdigest()}, "
                f"must be {self.entry.sha256}"
            )
        self._compare(digests)
