"""Folders that an engine opens: one symbolic link per file into the blobs of a cache, and the manifest."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import tempfile
from pathlib import Path

from weights.manifest import Manifest, from_json, to_json

MANIFEST = ".pilotlight.json"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder in a cache.

    Raises:
        OSError: the folder has none.
        ValueError: it is not a manifest.
    """
    return from_json(json.loads((folder / MANIFEST).read_text()))


def read_identity(folder: Path) -> str:
    """The identity of the source of a model folder in a cache (`weights.sources.source.Source.identity`).

    Raises:
        OSError: the folder has no manifest.
        ValueError: it is not a manifest.
    """
    try:
        return str(json.loads((folder / MANIFEST).read_text())["identity"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST}: not a manifest: {error!r}") from None


def write_model_folder(
    target: Path, manifest: Manifest, identity: str, *, with_weights: bool, scratch_in: Path
) -> None:
    """Make `target`, complete at once by rename, whatever stands there already.

    Args:
        target: `models/HEX` of a cache.
        manifest: every file with its SHA-256.
        identity: of the source.
        with_weights: link the weights too.
        scratch_in: a folder on the same file system for what is being written.

    Raises:
        OSError: it cannot be written.
    """
    scratch = Path(tempfile.mkdtemp(dir=scratch_in))
    try:
        for entry in manifest.files:
            if entry.is_weights and not with_weights:
                continue
            assert entry.sha256 is not None
            link = scratch / entry.path
            link.parent.mkdir(parents=True, exist_ok=True)
            # Relative, so that the cache may be mounted elsewhere.
            depth = entry.path.count("/") + 2
            link.symlink_to(Path(*[".."] * depth, "blobs", entry.sha256))
        (scratch / MANIFEST).write_text(json.dumps(to_json(manifest) | {"identity": identity}, indent=1))
        scratch.chmod(0o755)
        _move_into_place(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move_into_place(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        # Another process published the same version, or a damaged folder is there: replace it.
        aside = scratch.with_name(scratch.name + ".old")
        with contextlib.suppress(FileNotFoundError):
            target.rename(aside)
        with contextlib.suppress(OSError):  # a third process was faster, with the same content
            scratch.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
