"""A folder of models on NVMe or on a shared file system that never serves a wrong or half-written file.

    blobs/HEX            a file's content, named by its SHA-256, read-only, published by one rename
    objects/HEX.json     which blob an object's version is (endpoint, bucket, key, ETag, size)
    models/HEX/          a model at a version: one symbolic link per file, and its manifest
    tmp/                 what is being written; nothing there is ever read by name from elsewhere

Names come into being complete: a process that dies leaves at most a file under `tmp/`. Everything works
with what NFS offers: exclusive create, rename, no locks.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from weights.errors import CacheError, IntegrityError
from weights.manifest import FileEntry, Manifest, from_json, to_json

MANIFEST = ".pilotlight.json"
_FOLDERS = ("blobs", "objects", "models", "tmp")


class Cache:
    """One cache folder. Any number of processes and hosts may use it at once."""

    def __init__(self, root: Path) -> None:
        """Open the folder, making it if need be.

        Raises:
            CacheError: it cannot be made or written to.
        """
        self.root = root.expanduser().absolute()
        with self._writing():
            for folder in _FOLDERS:
                (self.root / folder).mkdir(parents=True, exist_ok=True)

    def blob_of(self, identity: str, entry: FileEntry) -> str | None:
        """The SHA-256 of the blob that holds this version of an object, if it is here whole."""
        try:
            record = json.loads(self._object_path(identity, entry).read_text())
            sha256 = str(record["sha256"])
            whole = self.blob_path(sha256).stat().st_size == entry.size
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never fetched, or no longer here: fetch it
        return sha256 if whole else None

    def blob_path(self, sha256: str) -> Path:
        """Where a blob lies, or would."""
        return self.root / "blobs" / sha256

    @contextlib.contextmanager
    def new_file(self, size: int) -> Iterator[Path]:
        """A scratch file of `size` bytes, removed at the end unless it was published by then.

        Raises:
            CacheError: no room for it.
        """
        with self._writing(size):
            descriptor, name = tempfile.mkstemp(dir=self.root / "tmp")
            try:
                if size:
                    # Room is taken now: a full disk shows before the download, not at its end.
                    os.posix_fallocate(descriptor, 0, size)
            except OSError:
                Path(name).unlink()
                raise
            finally:
                os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def publish_blob(self, identity: str, entry: FileEntry, path: Path) -> str:
        """Hash a finished scratch file, compare it with what was promised, and make it a blob.

        Raises:
            IntegrityError: its SHA-256 is not the one that the source declared.
            CacheError: it cannot be published.
        """
        sha256 = file_sha256(path)
        if entry.sha256 is not None and sha256 != entry.sha256:
            raise IntegrityError(f"{entry.path}: SHA-256 is {sha256}, must be {entry.sha256}")
        with self._writing():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            path.chmod(0o444)
            path.replace(self.blob_path(sha256))
            self._write(self._object_path(identity, entry), {"sha256": sha256, "size": entry.size})
        return sha256

    def model(self, identity: str, files: tuple[FileEntry, ...]) -> tuple[Path, Manifest] | None:
        """A published model with exactly these files at these versions, if it is here whole."""
        path = self._model_path(identity, files)
        try:
            manifest = from_json(json.loads((path / MANIFEST).read_text()))
            whole = all((path / entry.path).stat().st_size == entry.size for entry in manifest.files)
        except (OSError, ValueError):
            return None
        return (path, manifest) if whole else None

    def publish_model(self, identity: str, files: tuple[FileEntry, ...], manifest: Manifest) -> Path:
        """Make a folder of links to the blobs of `manifest`, whose entries all have their SHA-256.

        Args:
            identity: of the source.
            files: as listed; with `identity` they name the model's version.
            manifest: the same files with their SHA-256.

        Raises:
            CacheError: it cannot be published.
        """
        target = self._model_path(identity, files)
        with self._writing():
            scratch = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
            try:
                for entry in manifest.files:
                    assert entry.sha256 is not None
                    link = scratch / entry.path
                    link.parent.mkdir(parents=True, exist_ok=True)
                    # Relative, so that the cache may be mounted elsewhere.
                    depth = entry.path.count("/") + 2
                    link.symlink_to(Path(*[".."] * depth, "blobs", entry.sha256))
                (scratch / MANIFEST).write_text(json.dumps(to_json(manifest), indent=1))
                scratch.chmod(0o755)
                self._move_into_place(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return target

    @staticmethod
    def _move_into_place(scratch: Path, target: Path) -> None:
        try:
            scratch.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another process published the same version, or a damaged one is there: links are cheap, so
            # the present one goes aside and ours takes its name.
            aside = scratch.with_name(scratch.name + ".old")
            with contextlib.suppress(FileNotFoundError):
                target.rename(aside)
            scratch.rename(target)
            shutil.rmtree(aside, ignore_errors=True)

    def _write(self, path: Path, content: object) -> None:
        descriptor, name = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        Path(name).replace(path)

    def _object_path(self, identity: str, entry: FileEntry) -> Path:
        return self.root / "objects" / f"{_digest(identity, entry.path, entry.etag, str(entry.size))}.json"

    def _model_path(self, identity: str, files: tuple[FileEntry, ...]) -> Path:
        parts = [part for entry in files for part in (entry.path, entry.etag, str(entry.size))]
        return self.root / "models" / _digest(identity, *parts)

    @contextlib.contextmanager
    def _writing(self, needed: int = 0) -> Iterator[None]:
        """Turn the ways in which a folder refuses to be written into one clear error."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self.root).free
                raise CacheError(
                    f"cache folder = {self.root}, no room: {needed} bytes needed, {free} free; "
                    "must be on a file system with room for the model"
                ) from None
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
                raise CacheError(
                    f"cache folder = {self.root}, cannot be written ({error.strerror}: {error.filename}); "
                    "must be a writable folder"
                ) from None
            raise CacheError(f"cache folder = {self.root}: {error}") from error


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
