"""Whole files into the cache: many ranged reads at a time, every file verified before it is published."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import mmap
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from weights.cache.blob import Blob
from weights.cache.cache import Cache
from weights.cache.caching_reader import CachingReader
from weights.cache.file_readers import ByteCounter
from weights.cache.mapped_file import MappedFile
from weights.cache.part_writers import WriteThrough
from weights.cache.progress import Progress, TransferControl
from weights.errors import IntegrityError
from weights.manifest import FileEntry, SafetensorsHeader
from weights.plan import PART_BYTES, Part, parts_of_file, parts_of_weights
from weights.sources.ranged_reader import ReaderClosedError
from weights.sources.source import Source
from weights.wording import by_reason

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 0.1
"""Time between two reports of progress."""


@dataclasses.dataclass
class _Download:
    """A file that is being fetched."""

    reader: CachingReader
    wrong: bool = False
    """Whether it did not match its checksum the first time."""


class Downloader:
    """Brings files of one source at one version into a cache."""

    def __init__(self, source: Source, cache: Cache, control: TransferControl) -> None:
        """Prepare; nothing is read yet.

        Args:
            source: of the files.
            cache: for them; the caller closes it.
            control: reports progress and ends the transfer.
        """
        self._source = source
        self._cache = cache
        self._control = control
        self._counter = ByteCounter()
        self._stop = threading.Event()  # ends this attempt; `control.stop` ends all attempts
        self._total = 0
        self.blobs: dict[str, Blob] = {}
        """The files that are in the cache, by path."""
        self._buffers: queue.LifoQueue[memoryview] = queue.LifoQueue()

    @property
    def bytes_read(self) -> int:
        """Bytes that came from the source so far."""
        return self._counter.source

    def expect(self, wanted: Iterable[FileEntry]) -> None:
        """Set the files that progress is measured by."""
        self._total = sum(entry.size for entry in wanted)

    def check_cached(self, wanted: Iterable[FileEntry]) -> list[FileEntry]:
        """Check the files that are cached, part by part, and repair damaged parts.

        Returns:
            The files that are not cached.
        """
        missing = []
        cached = []
        for entry in wanted:
            blob = self._cache.blob(self._source.identity, entry)
            if blob is None:
                missing.append(entry)
            else:
                cached.append((entry, blob))
                self.blobs[entry.path] = blob
        self._cache.pin([blob.sha256 for blob in self.blobs.values()])
        jobs = []
        files = []
        for entry, blob in cached:
            if entry.size:
                repair = (self._cache, self._source, entry)
                file = MappedFile(blob.path, blob.parts, self._counter, blob=blob, repair=repair)
                files.append(file)
                jobs += [(file.check, part) for part in blob.parts]
        try:
            self._run(jobs)
        finally:
            for file in files:
                file.close()
        return missing

    def fetch(self, missing: Sequence[FileEntry], headers: Mapping[str, SafetensorsHeader]) -> None:
        """Fetch, verify and publish files; only those that are complete when `control.until` is set.

        Args:
            missing: the files.
            headers: of the weights files among them, by path.

        Raises:
            WeightsError: of the kinds in `weights.errors`.
            ReaderClosedError: `control.stop` was set.
        """
        downloads: list[_Download] = []
        try:
            for entry in self._source.declare_checksums(missing):
                header = headers.get(entry.path)
                parts = parts_of_file(entry.size) if header is None else parts_of_weights(header)
                reader = CachingReader(
                    self._source,
                    self._cache,
                    self._cache.open_partial(self._source.identity, entry, parts),
                    writer=WriteThrough(),
                    counter=self._counter,
                    stop=self._stop,
                )
                downloads.append(_Download(reader))
            self._fetch_parts(downloads)
            if self._control.until.is_set():
                for download in [one for one in downloads if not one.reader.complete()]:
                    downloads.remove(download)
                    download.reader.close()  # releases the lease: whoever wants the rest may fetch it
            self._run([(self._verify, download) for download in downloads])
            wrong = [download for download in downloads if download.wrong]
            self._fetch_parts(wrong)
            self._run([(self._verify, download) for download in wrong])
            for download in downloads:
                assert download.reader.published is not None
                self.blobs[download.reader.entry.path] = download.reader.published
            fetched = [(one.reader.entry.path, one.reader.entry.unchecked_because) for one in downloads]
            for reason, names in by_reason(fetched):
                _log.info("%s: not compared with a checksum (%s): %s", self._source.uri, reason, names)
        finally:
            for download in downloads:
                download.reader.close()
        self._cache.pin([blob.sha256 for blob in self.blobs.values()])

    def report(self) -> None:
        """Report progress."""
        if self._control.progress is not None:
            done = min(self._total, self._counter.source + self._counter.cache)
            self._control.progress(Progress(done, self._total, self._control.seconds))

    def _fetch_parts(self, downloads: Iterable[_Download]) -> None:
        self._run(
            [(self._fetch_part, download, part) for download in downloads for part in download.reader.parts]
        )

    def _fetch_part(self, download: _Download, part: Part) -> None:
        if self._control.until.is_set():
            return
        try:
            buffer = self._buffers.get_nowait()
        except queue.Empty:
            # Of the largest size of a part: page-aligned, and reused for many parts.
            buffer = memoryview(mmap.mmap(-1, PART_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        if part.nbytes > len(buffer):  # a header may be larger
            buffer = memoryview(mmap.mmap(-1, part.nbytes))
        with self._cache.writing(download.reader.entry.size):
            download.reader.read(part, buffer[: part.nbytes])
        self._buffers.put(buffer)

    def _verify(self, download: _Download) -> None:
        try:
            download.reader.publish()
        except IntegrityError:
            if download.wrong:
                raise
            download.wrong = True

    def _run(self, jobs: Sequence[tuple[Callable[..., object], *tuple[object, ...]]]) -> None:
        """Run jobs on many threads, report progress meanwhile, and stop all of them at the first failure."""
        if not jobs:
            return
        with concurrent.futures.ThreadPoolExecutor(self._control.concurrency, "weights-pull") as pool:
            running = {pool.submit(self._unless_stopped, *job) for job in jobs}
            try:
                while running:
                    finished, running = concurrent.futures.wait(
                        running, _PROGRESS_SECONDS, concurrent.futures.FIRST_EXCEPTION
                    )
                    for future in finished:
                        future.result()
                    self.report()
                    self._raise_if_stopped()
            except BaseException:
                self._stop.set()
                self._source.close()
                pool.shutdown(cancel_futures=True)
                raise

    def _raise_if_stopped(self) -> None:
        if self._control.stop.is_set():
            raise ReaderClosedError

    def _unless_stopped(self, job: Callable[..., object], *arguments: object) -> None:
        if self._stop.is_set():
            raise ReaderClosedError
        job(*arguments)
