"""A folder of models on NVMe or on a shared file system that never serves a wrong or half-written file.

    blobs/HEX            a file's content, named by its SHA-256, published by one rename
    blobs/HEX.parts      where its parts end and their digests: what every read is checked against
    objects/HEX.json     which blob an object's version is (endpoint, bucket, key, ETag, size)
    models/HEX/          a model at a version: one symbolic link per file, and its manifest
    filling/HEX/         a file while it arrives (`weights.cache.partial_file`)
    leases/HEX           which blobs a living process uses (`weights.cache.leases`)
    tmp/                 scratch, of no importance

Names come into being complete, so a process may die at any point. Everything works with what NFS offers:
exclusive create and rename, no locks.
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

from weights.cache.leases import LeaseKeeper
from weights.cache.partial_file import Filling
from weights.cache.pruning import Pruned, prune
from weights.errors import CacheError, IntegrityError
from weights.manifest import FileEntry, Manifest, from_json, to_json
from weights.plan import Part
from weights.sources.local import LocalSource
from weights.sources.source import Source

MANIFEST = ".pilotlight.json"
_JOIN_ATTEMPTS = 3
_FOLDERS = ("blobs", "objects", "models", "filling", "leases", "tmp")
_SHARED_FILE_SYSTEMS = ("nfs", "lustre", "fuse", "ceph", "cifs", "smb", "gpfs", "beegfs", "9p", "virtiofs")


@dataclasses.dataclass(frozen=True)
class Blob:
    """A published file: where it lies, its parts and their digests."""

    path: Path
    sha256: str
    parts: tuple[Part, ...]
    digests: tuple[bytes, ...]

    def as_source(self) -> Source:
        """Reads this blob in the place of the object that it came from."""
        return _BlobSource(self)


class Cache:
    """One cache folder, as one process uses it. Any number of processes and hosts may do so at once."""

    def __init__(self, root: Path, *, allow_read_only: bool = False, quota_bytes: int | None = None) -> None:
        """Open the folder, making it if need be.

        Args:
            root: the folder.
            allow_read_only: a folder that cannot be written is used for what it holds.
            quota_bytes: room is made before a file comes in; no limit when None.

        Raises:
            CacheError: it cannot be made or written to.
        """
        self.root = root.expanduser().absolute()
        self.read_only: CacheError | None = None
        try:
            with self.writing():
                for folder in _FOLDERS:
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
                # Found out now, not after the download.
                with tempfile.TemporaryFile(dir=self.root / "tmp"):
                    pass
        except CacheError as error:
            if not allow_read_only:
                raise
            self.read_only = error
        self.keeper = LeaseKeeper(self.root / "tmp")
        self.shared = _on_shared_file_system(self.root)
        self._use = self.root / "leases" / uuid.uuid4().hex
        self._quota = quota_bytes
        self._used: set[str] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give up all leases."""
        self.keeper.close()

    def use(self, sha256s: Sequence[str]) -> None:
        """Keep these blobs from eviction for as long as this object is open, and note the time of use."""
        if self.read_only is not None:
            return  # then nobody evicts here either
        with self._lock:
            self._used |= set(sha256s)
            with self.writing():
                self.keeper.announce(self._use, sorted(self._used))
        with contextlib.suppress(OSError):  # eviction then sees an older use
            now = self.keeper.now()
            for sha256 in sha256s:
                path = self.root / "blobs" / sha256
                with contextlib.suppress(OSError):
                    os.utime(path, (now, path.stat().st_mtime))

    def blob(self, identity: str, entry: FileEntry) -> Blob | None:
        """The blob that holds this version of an object, if it is here at its full size."""
        try:
            record = json.loads(self._object_path(identity, entry).read_text())
            return self.blob_named(str(record["sha256"]), entry.size)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never fetched, or no longer here: fetch it

    def blob_named(self, sha256: str, size: int) -> Blob | None:
        """The blob with this content, if it is here at its full size."""
        path = self.root / "blobs" / sha256
        try:
            sidecar = json.loads(self._sidecar(sha256).read_text())
            ends = [int(end) for end in sidecar["ends"]]
            digests = tuple(bytes.fromhex(digest) for digest in sidecar["digests"])
            whole = path.stat().st_size == size == (ends[-1] if ends else 0) and len(ends) == len(digests)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        begins = [0, *ends[:-1]] if ends else []
        parts = tuple(Part(index, *bounds) for index, bounds in enumerate(zip(begins, ends, strict=True)))
        return Blob(path, sha256, parts, digests) if whole else None

    def fill(self, identity: str, entry: FileEntry, parts: Sequence[Part]) -> Filling:
        """Begin, join or continue the filling of an object's version.

        Raises:
            CacheError: no room for it.
        """
        if self.read_only is not None:
            raise self.read_only
        if self._quota is not None:
            self.prune(max(0, self._quota - entry.size))
        name = self._object_path(identity, entry).stem
        with self.writing(entry.size):
            filling = self._join(self.root / "filling" / name, entry, parts)
            # Own it if nobody does; a lease also keeps it from being pruned. Where another replica has just
            # published it, the open files have everything.
            with contextlib.suppress(FileNotFoundError):
                filling.own()
            return filling

    def _join(self, folder: Path, entry: FileEntry, parts: Sequence[Part]) -> Filling:
        for _ in range(_JOIN_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # published, with its folder, between two steps
                return Filling(folder, entry, parts, self.keeper, flush=self.shared)
        return Filling(folder, entry, parts, self.keeper, flush=self.shared)

    def publish(self, identity: str, filling: Filling, stop: threading.Event) -> str | None:
        """Make a blob of a filling that has all its parts.

        Returns:
            The file's SHA-256, or None if `stop` was set or parts are missing.

        Raises:
            IntegrityError: it is not the file that the source declared; its parts are forgotten.
            CacheError: the cache cannot be written.
        """
        entry = filling.entry
        marks = filling.marks()
        sha256 = None if marks is None else filling.sha256(stop)
        if marks is None or sha256 is None:
            return None
        if entry.sha256 is not None and sha256 != entry.sha256:
            filling.forget_parts()
            raise IntegrityError(
                f"{entry.path}: the bytes that arrived have SHA-256 {sha256}, must be {entry.sha256}"
            )
        ends = [part.end for part in filling.parts]
        with self.writing():
            self.write_json(self._sidecar(sha256), {"ends": ends, "digests": [mark.hex() for mark in marks]})
            with contextlib.suppress(FileNotFoundError):  # another process published it a moment ago
                (filling.folder / "data").replace(self.root / "blobs" / sha256)
            self.write_json(self._object_path(identity, entry), {"sha256": sha256, "size": entry.size})
            filling.remove()
        return sha256

    def repair(self, blob: Blob, part: Part, view: memoryview) -> None:
        """Put right bytes back into a damaged part of a blob. In place: who has it mapped sees them too."""
        with self.writing(), blob.path.open("rb+", buffering=0) as file:
            done = 0
            while done < part.nbytes:
                done += os.pwrite(file.fileno(), view[done:], part.begin + done)

    def model(
        self, identity: str, files: tuple[FileEntry, ...], *, whole: bool = True
    ) -> tuple[Path, Manifest] | None:
        """A published model with exactly these files at these versions, if all of it is here.

        Args:
            identity: of the source.
            files: as listed.
            whole: with its weights; else without, for an engine that streams them.
        """
        path = self._model_path(identity, files, whole=whole)
        try:
            manifest = read_manifest(path)
            here = all(
                (entry.is_weights and not whole) or (path / entry.path).stat().st_size == entry.size
                for entry in manifest.files
            )
        except (OSError, ValueError):
            return None
        return (path, manifest) if here else None

    def publish_model(
        self, identity: str, files: tuple[FileEntry, ...], manifest: Manifest, *, whole: bool = True
    ) -> Path:
        """Make a folder of links to the blobs of `manifest`.

        Args:
            identity: of the source.
            files: as listed; with `identity` they name the model's version.
            manifest: the same files with their SHA-256.
            whole: link the weights too.

        Raises:
            CacheError: it cannot be published.
        """
        target = self._model_path(identity, files, whole=whole)
        with self.writing():
            scratch = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
            try:
                for entry in manifest.files:
                    if entry.is_weights and not whole:
                        continue
                    assert entry.sha256 is not None
                    link = scratch / entry.path
                    link.parent.mkdir(parents=True, exist_ok=True)
                    # Relative, so that the cache may be mounted elsewhere.
                    depth = entry.path.count("/") + 2
                    link.symlink_to(Path(*[".."] * depth, "blobs", entry.sha256))
                (scratch / MANIFEST).write_text(
                    json.dumps(to_json(manifest) | {"identity": identity}, indent=1)
                )
                scratch.chmod(0o755)
                _move_into_place(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return target

    def prune(self, quota_bytes: int, *, dry_run: bool = False) -> Pruned:
        """Remove what was used longest ago until at most `quota_bytes` are taken; nothing that is in use.

        Raises:
            CacheError: the cache cannot be written.
            ValueError: the quota is negative.
        """
        if self.read_only is not None:
            raise self.read_only
        with self.writing():
            return prune(self.root, self.keeper, quota_bytes, dry_run=dry_run)

    @contextlib.contextmanager
    def writing(self, needed: int = 0) -> Iterator[None]:
        """Turn the ways in which a folder refuses to be written into one clear error."""
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

    def write_json(self, path: Path, content: object) -> None:
        """Write a small file that comes into being whole. OSErrors pass through."""
        descriptor, name = tempfile.mkstemp(dir=self.root / "tmp")
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        Path(name).chmod(0o644)
        Path(name).replace(path)

    def _sidecar(self, sha256: str) -> Path:
        return self.root / "blobs" / f"{sha256}.parts"

    def _object_path(self, identity: str, entry: FileEntry) -> Path:
        return self.root / "objects" / f"{_digest(identity, entry.path, entry.etag, str(entry.size))}.json"

    def _model_path(self, identity: str, files: tuple[FileEntry, ...], *, whole: bool) -> Path:
        parts = [part for entry in files for part in (entry.path, entry.etag, str(entry.size))]
        return self.root / "models" / _digest(identity, *parts, *([] if whole else ["without weights"]))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder in a cache.

    Raises:
        OSError: there is none.
        ValueError: it is not one.
    """
    return from_json(json.loads((folder / MANIFEST).read_text()))


def read_identity(folder: Path) -> str:
    """The identity of the source of a model folder in a cache. Raises like `read_manifest`."""
    try:
        return str(json.loads((folder / MANIFEST).read_text())["identity"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST}: not a manifest: {error!r}") from None


class _BlobSource(LocalSource):
    def __init__(self, blob: Blob) -> None:
        super().__init__(blob.path.parent)
        self._blob = blob

    def head(self, entry: FileEntry) -> FileEntry:
        return super().head(dataclasses.replace(entry, path=self._blob.path.name))


def _move_into_place(scratch: Path, target: Path) -> None:
    try:
        scratch.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        # Another process published the same version, or a damaged one is there. Links are cheap: the present
        # one goes aside and ours takes its name.
        aside = scratch.with_name(scratch.name + ".old")
        with contextlib.suppress(FileNotFoundError):
            target.rename(aside)
        with contextlib.suppress(OSError):  # and if yet another one took it meanwhile, it is as good
            scratch.rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _on_shared_file_system(path: Path) -> bool:
    """Whether other hosts may look at the same files, as far as the mount's type tells."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return True
    best = max(
        (mount for mount in mounts if path.is_relative_to(mount[1])),
        key=lambda mount: len(mount[1]),
        default=None,
    )
    return best is None or best[2].startswith(_SHARED_FILE_SYSTEMS)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
