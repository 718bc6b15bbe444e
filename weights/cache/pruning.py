"""Keeping a cache within its quota, while others use it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from weights.cache.eviction import Candidate, least_recently_used
from weights.cache.leases import LeaseKeeper

_ABANDONED_SECONDS = 24 * 3600.0
"""Age at which scratch files have surely lost their process."""


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What a pruning did, in bytes. `in_use_bytes` is what living processes keep from being removed."""

    removed: tuple[str, ...]
    removed_bytes: int
    kept_bytes: int
    in_use_bytes: int


def prune(root: Path, keeper: LeaseKeeper, quota: int, *, dry_run: bool = False) -> Pruned:
    """Remove what was used longest ago until the cache takes at most `quota` bytes.

    Args:
        root: the cache's folder.
        keeper: of leases in it.
        quota: in bytes, from 0.
        dry_run: only say what would be removed.

    Raises:
        ValueError: the quota is negative.
        OSError: the folder cannot be read.
    """
    if quota < 0:
        raise ValueError(f"quota = {quota}, must be at least 0 bytes")
    candidates = list(_candidates(root, keeper))
    chosen = least_recently_used(candidates, quota)
    removed = [candidate for candidate in chosen if dry_run or _remove(root, keeper, candidate)]
    if removed and not dry_run:
        _drop_dangling(root)
    if not dry_run:
        _drop_abandoned(root, keeper.now())
    freed = sum(candidate.size for candidate in removed)
    return Pruned(
        tuple(candidate.name for candidate in removed),
        freed,
        sum(candidate.size for candidate in candidates) - freed,
        sum(candidate.size for candidate in candidates if candidate.in_use),
    )


def _in_use(root: Path, keeper: LeaseKeeper) -> set[str]:
    return {name for names in keeper.announced(root / "leases") for name in names}


def _candidates(root: Path, keeper: LeaseKeeper) -> Iterator[Candidate]:
    used = _in_use(root, keeper)
    for path in (root / "blobs").iterdir():
        if path.suffix == ".parts":
            continue
        with contextlib.suppress(FileNotFoundError):  # somebody else prunes too
            status = path.stat()
            yield Candidate(f"blobs/{path.name}", status.st_size, status.st_atime, path.name in used)
    for folder in (root / "filling").iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = (folder / "data").stat()
            touched = (folder / "marks").stat().st_mtime
            held = keeper.held_by_someone(folder / "lease")
            yield Candidate(f"filling/{folder.name}", status.st_blocks * 512, touched, held)


def _remove(root: Path, keeper: LeaseKeeper, candidate: Candidate) -> bool:
    """Take a file out of the way, and put it back if somebody began to use it at that very moment."""
    path = root / candidate.name
    if path.parent.name == "filling":
        if keeper.held_by_someone(path / "lease"):
            return False
        shutil.rmtree(path, ignore_errors=True)
        return True
    aside = root / "tmp" / f"evicted-{path.name}"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    if path.name in _in_use(root, keeper):
        aside.rename(path)
        return False
    aside.unlink(missing_ok=True)
    (path.parent / f"{path.name}.parts").unlink(missing_ok=True)
    return True


def _drop_dangling(root: Path) -> None:
    """Forget models and object versions whose blobs are gone; whoever asks fetches them again."""
    for record in (root / "objects").iterdir():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if not (root / "blobs" / str(json.loads(record.read_text())["sha256"])).exists():
                record.unlink()
    for model in (root / "models").iterdir():
        links = [path for path in model.rglob("*") if path.is_symlink()]
        if not all(link.exists() for link in links):
            shutil.rmtree(model, ignore_errors=True)


def _drop_abandoned(root: Path, now: float) -> None:
    for path in (root / "tmp").iterdir():
        with contextlib.suppress(OSError):
            if now - path.lstat().st_mtime < _ABANDONED_SECONDS:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
