"""What a cache holds."""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from weights.cache.blob import PARTS_SUFFIX
from weights.cache.model_folder import read_manifest
from weights.cache.pruning import ARCHIVE_KINDS, ARCHIVE_SUFFIX, FOLDER_KINDS


@dataclasses.dataclass(frozen=True)
class CachedModel:
    """A model in the cache. `with_weights` is False where an engine streams the weights by itself."""

    uri: str
    path: Path
    files: int
    total_bytes: int
    with_weights: bool
    last_used: datetime | None


@dataclasses.dataclass(frozen=True)
class Inventory:
    """The models of a cache, and its bytes; `partial_bytes` are those of unfinished files."""

    folder: Path
    models: tuple[CachedModel, ...]
    blob_bytes: int
    partial_bytes: int
    archive_bytes: int
    """Of what engines made: compiled kernels and snapshots of processes."""


def take_inventory(folder: Path) -> Inventory:
    """List a cache. A folder that does not exist is an empty cache."""
    models = []
    for path in sorted(entries(folder / "models")):
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
                    with_weights=len(here) == len(manifest.files),
                    last_used=None if used is None else datetime.fromtimestamp(used, UTC),
                )
            )
    return Inventory(
        folder,
        tuple(models),
        sum(path.stat().st_size for path in entries(folder / "blobs") if path.suffix != PARTS_SUFFIX),
        sum(path.stat().st_blocks * 512 for path in folder.glob("partial/*/data")),
        sum(path.stat().st_size for path in _artefacts(folder)),
    )


def _artefacts(folder: Path) -> list[Path]:
    archives = [path for kind in ARCHIVE_KINDS for path in folder.glob(f"{kind}/*{ARCHIVE_SUFFIX}")]
    return archives + [path for kind in FOLDER_KINDS for path in folder.glob(f"{kind}/*/*")]


def entries(folder: Path) -> list[Path]:
    """A folder's entries; none if it does not exist."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
