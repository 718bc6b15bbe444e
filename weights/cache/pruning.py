"""Keeping a cache within its quota while other processes use it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from weights.cache.blob import PARTS_SUFFIX, parts_path
from weights.cache.eviction import EvictionCandidate, least_recently_used
from weights.cache.leases import LeaseManager

ARCHIVE_KINDS = ("compiled",)
"""Folders of `weights.cache.artefact_archives`."""
ARCHIVE_SUFFIX = ".tar"
FOLDER_KINDS = ("snapshots",)
"""Folders of `weights.cache.artefact_folders`."""
RECORD_FILE = "record.json"
"""What each of those folders says of itself; its access time is that of the folder's last use."""

_ABANDONED_SECONDS = 24 * 3600.0
"""Age at which the process of a scratch file has certainly ended."""


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What a pruning did, in bytes. `in_use_bytes` is what living processes keep from eviction."""

    removed: tuple[str, ...]
    removed_bytes: int
    kept_bytes: int
    in_use_bytes: int


def prune(root: Path, leases: LeaseManager, quota: int, *, dry_run: bool = False) -> Pruned:
    """Evict what was used longest ago until the cache takes at most `quota` bytes.

    Args:
        root: the cache's folder.
        leases: of this process in it.
        quota: in bytes, at least 0.
        dry_run: only report what would be evicted.

    Raises:
        ValueError: the quota is negative.
        OSError: the folder cannot be read.
    """
    if quota < 0:
        raise ValueError(f"quota = {quota}, must be at least 0 bytes")
    candidates = list(_candidates(root, leases))
    return _evict(root, leases, candidates, least_recently_used(candidates, quota), dry_run=dry_run)


def remove_blobs(
    root: Path, leases: LeaseManager, names: Collection[str], *, dry_run: bool = False
) -> Pruned:
    """Remove blobs by their SHA-256, except those that are in use.

    Args:
        root: the cache's folder.
        leases: of this process in it.
        names: of the blobs.
        dry_run: only report what would be removed.

    Raises:
        OSError: the folder cannot be read.
    """
    candidates = [item for item in _candidates(root, leases) if item.name.removeprefix("blobs/") in names]
    chosen = [item for item in candidates if not item.in_use]
    return _evict(root, leases, candidates, chosen, dry_run=dry_run)


def _evict(
    root: Path,
    leases: LeaseManager,
    candidates: Sequence[EvictionCandidate],
    chosen: Sequence[EvictionCandidate],
    *,
    dry_run: bool,
) -> Pruned:
    removed = [candidate for candidate in chosen if dry_run or _remove(root, leases, candidate)]
    if removed and not dry_run:
        _remove_dangling(root)
    if not dry_run:
        _remove_abandoned(root, leases.now())
    freed = sum(candidate.size for candidate in removed)
    return Pruned(
        tuple(candidate.name for candidate in removed),
        freed,
        sum(candidate.size for candidate in candidates) - freed,
        sum(candidate.size for candidate in candidates if candidate.in_use),
    )


def _in_use(root: Path, leases: LeaseManager) -> set[str]:
    return {name for names in leases.published(root / "leases") for name in names}


def _candidates(root: Path, leases: LeaseManager) -> Iterator[EvictionCandidate]:
    used = _in_use(root, leases)
    for path in (root / "blobs").iterdir():
        if path.suffix == PARTS_SUFFIX:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            status = path.stat()
            yield EvictionCandidate(f"blobs/{path.name}", status.st_size, status.st_atime, path.name in used)
    for folder in (root / "partial").iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = (folder / "data").stat()
            touched = (folder / "digests").stat().st_mtime
            held = leases.is_held(folder / "lease")
            yield EvictionCandidate(f"partial/{folder.name}", status.st_blocks * 512, touched, held)
    for archive in (path for kind in ARCHIVE_KINDS for path in root.glob(f"{kind}/*{ARCHIVE_SUFFIX}")):
        with contextlib.suppress(OSError):  # another process prunes too, or another user's
            status = archive.stat()
            yield EvictionCandidate(
                str(archive.relative_to(root)), status.st_size, status.st_atime, in_use=False
            )
    for record in (path for kind in FOLDER_KINDS for path in root.glob(f"{kind}/*/{RECORD_FILE}")):
        with contextlib.suppress(OSError):
            size = sum(path.stat().st_size for path in record.parent.iterdir())
            used_at = record.stat().st_atime
            yield EvictionCandidate(str(record.parent.relative_to(root)), size, used_at, in_use=False)


def _remove(root: Path, leases: LeaseManager, candidate: EvictionCandidate) -> bool:
    """Evict one candidate; False if a process began to use it in the meantime."""
    path = root / candidate.name
    if path.suffix == ARCHIVE_SUFFIX:
        return _remove_archive(path)
    if path.parent.name in FOLDER_KINDS:
        return _remove_folder(root, path)
    if path.parent.name == "partial":
        return _remove_partial(path, leases)
    aside = root / "tmp" / f"evicted-{path.name}"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    # Pins are published before a blob is opened, so looking once more after the rename misses nobody.
    if path.name in _in_use(root, leases):
        aside.rename(path)
        return False
    aside.unlink(missing_ok=True)
    parts_path(path).unlink(missing_ok=True)
    return True


def _remove_partial(path: Path, leases: LeaseManager) -> bool:
    if leases.is_held(path / "lease"):
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


def _remove_archive(path: Path) -> bool:
    try:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()
    except OSError:  # of another user, or another process was faster
        return False
    return True


def _remove_folder(root: Path, path: Path) -> bool:
    aside = root / "tmp" / f"evicted-{path.name}"
    try:
        path.rename(aside)
    except OSError:  # of another user, or another process was faster
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _remove_dangling(root: Path) -> None:
    """Forget models and versions of objects whose blobs are gone; they are fetched again on demand."""
    for record in (root / "objects").iterdir():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if not (root / "blobs" / str(json.loads(record.read_text())["sha256"])).exists():
                record.unlink()
    for model in (root / "models").iterdir():
        links = [path for path in model.rglob("*") if path.is_symlink()]
        if not all(link.exists() for link in links):
            shutil.rmtree(model, ignore_errors=True)


def _remove_abandoned(root: Path, now: float) -> None:
    for path in (root / "tmp").iterdir():
        with contextlib.suppress(OSError):
            if now - path.lstat().st_mtime < _ABANDONED_SECONDS:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
