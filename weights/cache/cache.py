"""A folder of models on NVMe or on a shared file system that never serves a wrong or incomplete file.

    blobs/HEX            a file's content, named by its SHA-256, published by one rename
    blobs/HEX.parts      where its parts end and their digests, against which every read is checked
    objects/HEX.json     which blob a version of an object is (endpoint, bucket, key, ETag, size)
    models/HEX/          a model at a version: one symbolic link per file, and its manifest
    partial/HEX/         a file while it arrives (`weights.cache.partial_file`)
    leases/HEX           which blobs a running process uses (`weights.cache.leases`)
    compiled/            what engines compiled (`weights.cache.artefact_archives`)
    snapshots/           processes to restore instead of importing (`weights.cache.artefact_folders`)
    tmp/                 scratch files that nobody misses

Every name appears complete, by rename, so a process may die at any point. The file system must offer
exclusive create and rename, as NFS does; no locks are taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from weights.cache.blob import Blob, parts_path, parts_record, read_blob
from weights.cache.leases import LeaseManager
from weights.cache.model_folder import read_identity, read_manifest, write_model_folder
from weights.cache.partial_file import PartialFile
from weights.cache.pruning import Pruned, prune, remove_blobs
from weights.errors import CacheError, IntegrityError
from weights.manifest import FileEntry, Manifest
from weights.plan import Part

_JOIN_ATTEMPTS = 3
_FOLDERS = ("blobs", "objects", "models", "partial", "leases", "tmp")
_SHARED_FILE_SYSTEMS = ("nfs", "lustre", "fuse", "ceph", "cifs", "smb", "gpfs", "beegfs", "9p", "virtiofs")


class Cache:
    """One cache folder, as one process uses it. Any number of processes and hosts may do so at once."""

    def __init__(self, root: Path, *, allow_read_only: bool = False, quota_bytes: int | None = None) -> None:
        """Open the folder; make it if need be.

        Args:
            root: the folder.
            allow_read_only: use a folder that cannot be written for what it holds, instead of an error.
            quota_bytes: room is made before a file comes in; no limit when None.

        Raises:
            CacheError: the folder cannot be made or written to.
        """
        self.root = root.expanduser().absolute()
        self.read_only: CacheError | None = None
        """Why the folder cannot be written; None if it can."""
        try:
            with self.writing():
                for folder in _FOLDERS:
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
                # A folder that cannot be written is found out now, not after the download.
                with tempfile.TemporaryFile(dir=self.root / "tmp"):
                    pass
        except CacheError as error:
            if not allow_read_only:
                raise
            self.read_only = error
        self.leases = LeaseManager(self.root / "tmp")
        self.shared = _on_shared_file_system(self.root)
        self._pins = self.root / "leases" / uuid.uuid4().hex
        self._quota = quota_bytes
        self._pinned: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Release all leases and pins."""
        self.leases.close()

    def pin(self, sha256s: Sequence[str]) -> None:
        """Keep these blobs from eviction until `close`, and record that they were used now."""
        if self.read_only is not None:
            return  # a folder that nobody can write is not evicted from
        with self._lock:
            self._pinned |= set(sha256s)
            with self.writing():
                self.leases.publish(self._pins, sorted(self._pinned))
        with contextlib.suppress(OSError):  # eviction then goes by an older time of use
            now = self.leases.now()
            for sha256 in sha256s:
                path = self._blob_path(sha256)
                with contextlib.suppress(OSError):
                    os.utime(path, (now, path.stat().st_mtime))

    def blob(self, identity: str, entry: FileEntry) -> Blob | None:
        """The blob that holds this version of an object; None if it is not cached at its full size."""
        try:
            record = json.loads(self._object_path(identity, entry).read_text())
            blob = self.blob_named(str(record["sha256"]), entry.size)
            if blob is None:
                return None
            return dataclasses.replace(
                blob, checked_by=record["checked_by"], unchecked_because=record["unchecked_because"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never fetched, or evicted

    def blob_named(self, sha256: str, size: int) -> Blob | None:
        """The blob with this content; None if it is not cached at its full size."""
        return read_blob(self._blob_path(sha256), size)

    def open_partial(self, identity: str, entry: FileEntry, parts: Sequence[Part]) -> PartialFile:
        """Begin, join or continue the download of a version of an object.

        Raises:
            CacheError: there is no room for it.
        """
        if self.read_only is not None:
            raise self.read_only
        self.make_room(entry.size)
        name = self._object_path(identity, entry).stem
        with self.writing(entry.size):
            partial = self._join(self.root / "partial" / name, entry, parts)
            # The lease also keeps it from being pruned. If another replica has just published the file, the
            # folder is gone, and the open files have everything.
            with contextlib.suppress(FileNotFoundError):
                partial.acquire()
            return partial

    def _join(self, folder: Path, entry: FileEntry, parts: Sequence[Part]) -> PartialFile:
        for _ in range(_JOIN_ATTEMPTS):
            with contextlib.suppress(
                FileNotFoundError
            ):  # published, and its folder removed, between two steps
                return PartialFile(folder, entry, parts, self.leases, flush=self.shared)
        return PartialFile(folder, entry, parts, self.leases, flush=self.shared)

    def publish(self, identity: str, partial: PartialFile, stop: threading.Event) -> str | None:
        """Make a blob of a file of which all parts have arrived.

        Returns:
            The file's SHA-256; None if `stop` was set, or parts are missing or were just replaced.

        Raises:
            IntegrityError: it is not the file that the source declared; its parts are discarded.
            CacheError: the cache cannot be written.
        """
        entry = partial.entry
        digests = partial.digests()
        content = None if digests is None else partial.hash(stop)
        if digests is None or content is None:
            return None
        try:
            content.check()
        except IntegrityError:
            partial.discard_parts()
            raise
        if partial.digests() != digests:
            return None  # another process fetched parts again while they were hashed
        blob = self._blob_path(content.sha256)
        with self.writing():
            self.write_json(parts_path(blob), parts_record(partial.parts, digests))
            with contextlib.suppress(FileNotFoundError):  # another process published it a moment ago
                (partial.folder / "data").replace(blob)
            self.write_json(
                self._object_path(identity, entry),
                {
                    "sha256": content.sha256,
                    "size": entry.size,
                    "checked_by": None if entry.checksum is None else entry.checksum.label,
                    "unchecked_because": entry.unchecked_because,
                },
            )
            partial.remove()
        return content.sha256

    def repair(self, blob: Blob, part: Part, view: memoryview) -> None:
        """Overwrite a damaged part with the right bytes, in place: processes that map the blob see them."""
        with self.writing(), blob.path.open("rb+", buffering=0) as file:
            done = 0
            while done < part.nbytes:
                done += os.pwrite(file.fileno(), view[done:], part.begin + done)

    def model(
        self, identity: str, files: tuple[FileEntry, ...], *, with_weights: bool = True
    ) -> tuple[Path, Manifest] | None:
        """The folder and manifest of a model with exactly these versions of files; None if any is missing.

        Args:
            identity: of the source.
            files: as listed.
            with_weights: else a folder without weights, for an engine that streams them.
        """
        path = self._model_path(identity, files, with_weights=with_weights)
        try:
            manifest = read_manifest(path)
            complete = all(
                (entry.is_weights and not with_weights) or (path / entry.path).stat().st_size == entry.size
                for entry in manifest.files
            )
        except (OSError, ValueError):
            return None
        return (path, manifest) if complete else None

    def publish_model(
        self, identity: str, files: tuple[FileEntry, ...], manifest: Manifest, *, with_weights: bool = True
    ) -> Path:
        """Make a folder of links to the blobs of `manifest`.

        Args:
            identity: of the source.
            files: as listed; with `identity` they name the version of the model.
            manifest: the same files with their SHA-256.
            with_weights: link the weights too.

        Raises:
            CacheError: it cannot be written.
        """
        target = self._model_path(identity, files, with_weights=with_weights)
        with self.writing():
            write_model_folder(
                target, manifest, identity, with_weights=with_weights, scratch_in=self.root / "tmp"
            )
        return target

    def prune(self, quota_bytes: int, *, dry_run: bool = False) -> Pruned:
        """Evict what was used longest ago until at most `quota_bytes` are taken; nothing that is in use.

        Raises:
            CacheError: the cache cannot be written.
            ValueError: the quota is negative.
        """
        if self.read_only is not None:
            raise self.read_only
        with self.writing():
            return prune(self.root, self.leases, quota_bytes, dry_run=dry_run)

    def remove_model(self, uri: str, *, dry_run: bool = False) -> Pruned:
        """Remove every version of a model, except what other models share and what is in use.

        Raises:
            CacheError: the cache cannot be written.
        """
        if self.read_only is not None:
            raise self.read_only
        with self.writing():
            wanted: set[str] = set()
            shared: set[str] = set()
            for folder in (self.root / "models").iterdir():
                with contextlib.suppress(OSError, ValueError):  # being published or pruned at this moment
                    manifest, identity = read_manifest(folder), read_identity(folder)
                    blobs = [self.blob(identity, entry) for entry in manifest.files]
                    into = wanted if manifest.uri == uri else shared
                    into.update(blob.sha256 for blob in blobs if blob is not None)
            return remove_blobs(self.root, self.leases, wanted - shared, dry_run=dry_run)

    @contextlib.contextmanager
    def writing(self, needed: int = 0) -> Iterator[None]:
        """Turn the OSErrors of a full or read-only folder into a CacheError that says what would help.

        Args:
            needed: bytes that are about to be written, for the message.
        """
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                free = shutil.disk_usage(self.root).free
                wanted = f"{needed} bytes needed, " if needed else ""
                raise CacheError(
                    f"cache folder = {self.root}, no room ({wanted}{free} free); "
                    "must be on a file system with room for the model"
                ) from None
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
                raise CacheError(
                    f"cache folder = {self.root}, cannot be written ({error.strerror}: {error.filename}); "
                    "must be a writable folder"
                ) from None
            raise CacheError(f"cache folder = {self.root}: {error}") from error

    def make_room(self, size: int) -> None:
        """Evict what was used longest ago, so that `size` more bytes stay within the quota, if any."""
        if self._quota is not None:
            self.prune(max(0, self._quota - size))

    def write_json(self, path: Path, content: object) -> None:
        """Write a small file that appears complete, by rename. OSErrors pass through."""
        descriptor, name = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        Path(name).chmod(0o644)
        Path(name).replace(path)

    def _blob_path(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def _object_path(self, identity: str, entry: FileEntry) -> Path:
        return self.root / "objects" / f"{_digest(identity, entry.path, entry.etag, str(entry.size))}.json"

    def _model_path(self, identity: str, files: tuple[FileEntry, ...], *, with_weights: bool) -> Path:
        parts = [part for entry in files for part in (entry.path, entry.etag, str(entry.size))]
        variant = [] if with_weights else ["without weights"]
        return self.root / "models" / _digest(identity, *parts, *variant)


def _on_shared_file_system(path: Path) -> bool:
    """Whether other hosts may read the same files, judging by the mount's type."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return True
    innermost = max(
        (mount for mount in mounts if path.is_relative_to(mount[1])),
        key=lambda mount: len(mount[1]),
        default=None,
    )
    return innermost is None or innermost[2].startswith(_SHARED_FILE_SYSTEMS)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
