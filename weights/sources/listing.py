"""What a source holds: which of its files make the model, and whether they may be loaded.

Only listings, indexes and safetensors headers are read here.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence

from weights import index as indexes
from weights import safetensors_header, selection
from weights.errors import RefusedError
from weights.manifest import FileEntry, Manifest, SafetensorsHeader, SkippedFile
from weights.sources.local import LocalSource
from weights.sources.source import Source

_HEADER_GUESS = 256 << 10
"""First read of a weights file, in bytes: most headers fit."""
_CONCURRENCY = 16
"""Headers read at a time."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """The selected files of a model and the index of its weights, if it has one."""

    files: tuple[FileEntry, ...]
    skipped: tuple[SkippedFile, ...]
    index: dict[str, str] | None
    """From tensor to file."""
    index_file: str = ""

    @property
    def weights(self) -> tuple[FileEntry, ...]:
        """The files with tensors."""
        return tuple(entry for entry in self.files if entry.is_weights)


def list_model(source: Source, patterns: Sequence[str] | None = None) -> Listing:
    """List a source and select the files of its model.

    Raises:
        SourceError: it cannot be listed or read.
        RefusedError: a file must not be loaded, or the index is wrong.
    """
    listed = source.list()
    index, index_file = read_index(source, listed)
    selected = selection.select(listed, patterns, uri=source.uri, index=index, index_file=index_file)
    return Listing(selected.files, selected.skipped, index, index_file)


def read_index(source: Source, listed: Sequence[FileEntry]) -> tuple[dict[str, str] | None, str]:
    """The index of a model's weights and its name; None where there is no index.

    Args:
        source: of the index; it may be at another version there than in the list.
        listed: the model's files.

    Raises:
        SourceError: it cannot be read.
        RefusedError: it is no index.
    """
    name = indexes.find_index(entry.path for entry in listed)
    if name is None:
        return None, ""
    entry = next(entry for entry in listed if entry.path == name)
    if isinstance(source, LocalSource):
        entry = source.entry(name)
    if entry.size > indexes.MAX_INDEX_BYTES:
        raise RefusedError(name, f"has {entry.size} bytes, must have at most {indexes.MAX_INDEX_BYTES}")
    return indexes.parse_index(read(source, entry), name), name


def read_headers(
    source: Source,
    listing: Listing,
    *,
    cached: Callable[[FileEntry], tuple[Source, FileEntry] | None] = lambda _: None,
) -> tuple[SafetensorsHeader, ...]:
    """The headers of all weights files, checked one by one and against each other.

    Args:
        source: of the files.
        listing: of the source.
        cached: a nearer source and the file there; None where there is none.

    Raises:
        SourceError: a header cannot be read.
        RefusedError: a file must not be loaded.
    """

    def header(entry: FileEntry, other: tuple[Source, FileEntry] | None) -> SafetensorsHeader:
        nearest, found = other or (source, entry)
        # A second request costs a round trip to a store, and next to nothing on a disk.
        head = read(nearest, found, _HEADER_GUESS if nearest is source and not local else 8)
        length = safetensors_header.header_length(entry.path, head, found.size)
        if 8 + length > len(head):
            head = read(nearest, found, 8 + length)
        return safetensors_header.parse_header(entry.path, head, found.size)

    if not listing.weights:
        return ()
    local = isinstance(source, LocalSource)
    others = [cached(entry) for entry in listing.weights]
    if local or None not in others:
        headers = tuple(map(header, listing.weights, others))  # starting threads would take longer
    else:
        with concurrent.futures.ThreadPoolExecutor(min(_CONCURRENCY, len(listing.weights))) as pool:
            headers = tuple(pool.map(header, listing.weights, others))
    return indexes.settle(headers, listing.index, listing.index_file)


def inspect(source: Source, patterns: Sequence[str] | None = None) -> Manifest:
    """The manifest of a model, with everything checked that can be without reading its tensors.

    Raises:
        SourceError: it cannot be listed or read.
        RefusedError: a file must not be loaded.
    """
    listing = list_model(source, patterns)
    return Manifest(source.uri, listing.files, read_headers(source, listing), listing.skipped)


def read(source: Source, entry: FileEntry, length: int | None = None) -> bytes:
    """The first `length` bytes of a file, or all of it."""
    buffer = bytearray(entry.size if length is None else min(length, entry.size))
    if buffer:
        source.read_into(entry, 0, memoryview(buffer))
    return bytes(buffer)
