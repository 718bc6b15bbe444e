"""What a source holds: which of its files make the model, and whether they may be loaded.

Only listings, indexes and safetensors headers are read here.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence

from weights import safetensors_header, selection
from weights.manifest import FileEntry, Manifest, SafetensorsHeader
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
    skipped: tuple[str, ...]
    index: dict[str, str] | None

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
    index = None
    for entry in listed:
        if entry.path == selection.INDEX:
            index = selection.parse_index(read(source, entry))
    selected = selection.select(listed, patterns, uri=source.uri, index=index)
    return Listing(selected.files, selected.skipped, index)


def read_headers(
    source: Source, listing: Listing, *, cached: Callable[[FileEntry], Source | None] = lambda _: None
) -> tuple[SafetensorsHeader, ...]:
    """The headers of all weights files, checked one by one and against each other.

    Args:
        source: of the files.
        listing: of the source.
        cached: a nearer source of a file; None where there is none.

    Raises:
        SourceError: a header cannot be read.
        RefusedError: a file must not be loaded.
    """

    def header(entry: FileEntry, other: Source | None) -> SafetensorsHeader:
        nearest = source if other is None else other
        found = entry if other is None else other.head(entry)
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
    selection.check_duplicates(headers)
    if listing.index is not None:
        selection.check_index(listing.index, headers)
    return headers


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
