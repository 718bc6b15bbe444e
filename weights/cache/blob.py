"""Published files of a cache: each named by its SHA-256, with a digest for each of its parts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weights.manifest import FileEntry
from weights.plan import Part
from weights.sources.local import LocalSource
from weights.sources.source import Source

PARTS_SUFFIX = ".parts"


@dataclasses.dataclass(frozen=True)
class Blob:
    """A published file: its place, its parts and their digests."""

    path: Path
    sha256: str
    parts: tuple[Part, ...]
    digests: tuple[bytes, ...]

    def as_source(self) -> Source:
        """A source that reads this blob in place of the object that it came from."""
        return _BlobSource(self)


def parts_path(blob: Path) -> Path:
    """Where the parts of a blob are recorded."""
    return blob.with_name(blob.name + PARTS_SUFFIX)


def parts_record(parts: Sequence[Part], digests: Sequence[bytes]) -> dict[str, Any]:
    """What `read_blob` reads, as JSON."""
    return {"ends": [part.end for part in parts], "digests": [digest.hex() for digest in digests]}


def read_blob(path: Path, size: int) -> Blob | None:
    """The blob at `path`, whose name is its SHA-256; None unless it is complete and `size` bytes long."""
    try:
        record = json.loads(parts_path(path).read_text())
        ends = [int(end) for end in record["ends"]]
        digests = tuple(bytes.fromhex(digest) for digest in record["digests"])
        complete = path.stat().st_size == size == (ends[-1] if ends else 0) and len(ends) == len(digests)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    begins = [0, *ends[:-1]] if ends else []
    parts = tuple(Part(index, *bounds) for index, bounds in enumerate(zip(begins, ends, strict=True)))
    return Blob(path, path.name, parts, digests) if complete else None


class _BlobSource(LocalSource):
    def __init__(self, blob: Blob) -> None:
        super().__init__(blob.path.parent)
        self._blob = blob

    def head(self, entry: FileEntry) -> FileEntry:
        return super().head(dataclasses.replace(entry, path=self._blob.path.name))
