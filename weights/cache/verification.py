"""Whether a cache's files still are what was published."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from weights.cache.blob import PARTS_SUFFIX, Blob, read_blob
from weights.cache.inventory import entries
from weights.cache.partial_file import part_digest
from weights.errors import CacheError


@dataclasses.dataclass(frozen=True)
class BlobCheck:
    """The result of reading a cached file from end to end; `problem` is None if nothing is wrong with it."""

    sha256: str
    size: int
    problem: str | None
    checked_by: str | None
    """The checksum of its source that it was compared with when it was fetched; None if with none."""
    unchecked_because: str | None


def verify(folder: Path, *, progress: Callable[[int], None] = lambda _: None) -> Iterator[BlobCheck]:
    """Read every cached file and compare it with its name and with the digests of its parts.

    That finds what changed after the file was fetched. Whether it was right then, only a checksum of its
    source can tell: `checked_by` names it.

    Args:
        folder: the cache.
        progress: called with the number of bytes read since the last call.

    Raises:
        CacheError: the folder is no cache.
    """
    if not (folder / "blobs").is_dir():
        raise CacheError(f"cache folder = {folder}, must be a folder that a pull has filled")
    records = _object_records(folder)
    for path in sorted(entries(folder / "blobs")):
        if path.suffix != PARTS_SUFFIX:
            size = path.stat().st_size
            problem = _problem(path, read_blob(path, size), progress)
            checked_by, unchecked_because = records.get(
                path.name, (None, "no object that it came from is known")
            )
            yield BlobCheck(path.name, size, problem, checked_by, unchecked_because)


def _object_records(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    """By SHA-256: the checksum that a file was compared with when it was fetched, or why with none."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for path in sorted(entries(folder / "objects")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # being pruned at this moment
            record = json.loads(path.read_text())
            sha256 = str(record["sha256"])
            if sha256 not in found or record["checked_by"] is not None:  # equal content: one check is enough
                found[sha256] = (record["checked_by"], record["unchecked_because"])
    return found


def _problem(path: Path, blob: Blob | None, progress: Callable[[int], None]) -> str | None:
    if blob is None:
        return "its size is not the one that was published, or the digests of its parts are missing"
    sha256 = hashlib.sha256()
    damaged = None
    with path.open("rb") as file:
        for part, digest in zip(blob.parts, blob.digests, strict=True):
            data = file.read(part.nbytes)
            sha256.update(data)
            progress(len(data))
            if damaged is None and part_digest(data) != digest:
                damaged = f"bytes {part.begin} to {part.end} are damaged; the next start fetches them again"
    if damaged is None and sha256.hexdigest() != path.name:
        return f"its SHA-256 is {sha256.hexdigest()}"
    return damaged
