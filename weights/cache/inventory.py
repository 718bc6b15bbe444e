"""What a cache holds, and whether it is still what it was."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from weights.cache.cache import Blob, Cache, read_manifest
from weights.cache.partial_file import digest_of
from weights.errors import CacheError


@dataclasses.dataclass(frozen=True)
class CachedModel:
    """A model in the cache. `whole` is False where an engine streams the weights itself."""

    uri: str
    path: Path
    files: int
    total_bytes: int
    whole: bool
    last_used: datetime | None


@dataclasses.dataclass(frozen=True)
class Overview:
    """A cache at a glance, in bytes; `filling_bytes` is what has arrived of unfinished files."""

    folder: Path
    models: tuple[CachedModel, ...]
    blob_bytes: int
    filling_bytes: int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of reading a cached file from end to end; `problem` is None when it is right."""

    sha256: str
    size: int
    problem: str | None


def overview(folder: Path) -> Overview:
    """Look at a cache. A folder that is not there is an empty one."""
    models = []
    for path in sorted(_entries(folder / "models")):
        with contextlib.suppress(OSError, ValueError):  # being published or pruned at this moment
            manifest = read_manifest(path)
            here = [(path / entry.path).stat() for entry in manifest.files if (path / entry.path).exists()]
            used = max((status.st_atime for status in here), default=None)
            models.append(
                CachedModel(
                    uri=manifest.uri,
                    path=path,
                    files=len(here),
                    total_bytes=sum(status.st_size for status in here),
                    whole=len(here) == len(manifest.files),
                    last_used=None if used is None else datetime.fromtimestamp(used, UTC),
                )
            )
    return Overview(
        folder,
        tuple(models),
        sum(path.stat().st_size for path in _entries(folder / "blobs") if path.suffix != ".parts"),
        sum(path.stat().st_blocks * 512 for path in folder.glob("filling/*/data")),
    )


def verify(folder: Path, *, progress: Callable[[int], None] = lambda _: None) -> Iterator[Verdict]:
    """Read every cached file and compare it with its name and with its parts' digests.

    Args:
        folder: the cache.
        progress: called with the number of bytes read since the last call.

    Raises:
        CacheError: it is not a cache.
    """
    if not (folder / "blobs").is_dir():
        raise CacheError(f"cache folder = {folder}, must be a folder that a pull has filled")
    cache = Cache(folder, allow_read_only=True)
    try:
        for path in sorted(_entries(folder / "blobs")):
            if path.suffix != ".parts":
                size = path.stat().st_size
                yield Verdict(path.name, size, _problem(path, cache.blob_named(path.name, size), progress))
    finally:
        cache.close()


def _problem(path: Path, blob: Blob | None, progress: Callable[[int], None]) -> str | None:
    if blob is None:
        return "its size is not the one that was published, or its digests are missing"
    sha256 = hashlib.sha256()
    damaged = None
    with path.open("rb") as file:
        for part, digest in zip(blob.parts, blob.digests, strict=True):
            data = file.read(part.nbytes)
            sha256.update(data)
            progress(len(data))
            if damaged is None and digest_of(data) != digest:
                damaged = f"bytes {part.begin} to {part.end} are damaged; the next start fetches them again"
    if damaged is None and sha256.hexdigest() != path.name:
        return f"its SHA-256 is {sha256.hexdigest()}"
    return damaged


def as_json(found: Overview) -> str:
    """The overview as a JSON object."""
    return json.dumps(dataclasses.asdict(found), default=str, indent=2)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
