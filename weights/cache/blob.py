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
    checked_by: str | None = None
    """As in `FileEntry`, of the object that it was asked for by."""
    unchecked_because: str | None = None

    def as_source(self) -> tuple[Source, FileEntry]:
        """A source and a file of it that stand for the object that the blob came from."""
        source = LocalSource(self.path.parent)
        return source, source.entry(self.path.name)


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
