"""Archives of what engines make beside the weights: compiled kernels.

They are code: `weights.cache.artefact_trust` decides which are restored. They count in the cache's quota and
are evicted like everything else.

    KIND/NAME.tar     the files
    KIND/NAME.json    the SHA-256 of the archive, its signature, and what it was made of
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from weights.cache.artefact_trust import ArtefactTrust, UntrustedArtefactsError
from weights.cache.cache import Cache
from weights.cache.pruning import ARCHIVE_KINDS, ARCHIVE_SUFFIX


class ArtefactArchives:
    """The archives of one kind in a weights cache."""

    def __init__(self, cache: Cache, kind: str, trust: ArtefactTrust | None = None) -> None:
        """Use a folder of a cache; nothing is made yet.

        Args:
            cache: the weights cache.
            kind: one of `weights.cache.pruning.ARCHIVE_KINDS`; an archive of one kind is never restored as
                another.
            trust: signs what is saved, and decides what is restored; by default this user's own files are.
        """
        assert kind in ARCHIVE_KINDS, kind
        self._cache = cache
        self._kind = kind
        self._trust = trust or ArtefactTrust()
        self._folder = cache.root / kind

    def restore(self, name: str, into: Path) -> int | None:
        """Put the files of an archive into a folder; files that are there already stay.

        Args:
            name: of the archive.
            into: made if need be.

        Returns:
            Bytes restored, or None if there is no archive. A damaged archive is removed.

        Raises:
            UntrustedArtefactsError: the archive may not be restored.
        """
        with contextlib.ExitStack() as stack:
            try:
                archive, record = self._open(name, stack)
                expected = record["sha256"]
            except (OSError, ValueError, KeyError, TypeError):
                return None
            into.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".restoring-", dir=into))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            # A copy that no other user can change between the check of its digest and the unpacking.
            with (scratch / "archive.tar").open("w+b") as copy:
                shutil.copyfileobj(archive, copy)
                copy.seek(0)
                if hashlib.file_digest(copy, "sha256").hexdigest() != expected:
                    for path in self._paths(name):
                        with contextlib.suppress(OSError):  # read-only, or removed by another process
                            path.unlink()
                    return None
                copy.seek(0)
                with tarfile.open(fileobj=copy) as opened:
                    opened.extractall(scratch / "files", filter="data")  # inside it, plain files, no devices
            self._note_use(name)
            return _merge(scratch / "files", into)

    def save(
        self,
        name: str,
        produced: Path,
        *,
        made_of: Mapping[str, Any],
        leave_out: frozenset[str] = frozenset(),
    ) -> bool:
        """Keep a folder's files, unless exactly these are kept already.

        Args:
            name: of the archive.
            produced: the folder.
            made_of: recorded beside the archive, for people.
            leave_out: folders directly below `produced` that are not kept.

        Returns:
            Whether something was written.

        Raises:
            CacheError: the cache cannot be written, or what is written would not be restored.
        """
        files = [file for file in _files(produced) if Path(file[0]).parts[0] not in leave_out]
        if not files:
            return False
        state = hashlib.sha256(
            "\n".join(f"{inside} {path.stat().st_size}" for inside, path in files).encode()
        ).hexdigest()
        archive, record = self._paths(name)
        if self._is_kept(name, state):
            return False
        self._trust.check_place(self._cache.root, shared=self._cache.shared)
        self._cache.make_room(sum(path.stat().st_size for _, path in files))
        with self._cache.writing():
            self._trust.prepare(self._folder)
            descriptor, scratch_name = tempfile.mkstemp(dir=self._cache.root / "tmp")
            scratch = Path(scratch_name)
            try:
                with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w") as archived:
                    for inside, path in files:
                        archived.add(path, inside, recursive=False)
                with scratch.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                scratch.chmod(self._trust.file_mode)
                scratch.replace(archive)
            finally:
                scratch.unlink(missing_ok=True)
            # Between the two renames a reader finds a checksum that does not match, and restores nothing.
            self._cache.write_json(
                record,
                {
                    "sha256": sha256,
                    **self._trust.sign(self._kind, name, sha256),
                    "state": state,
                    "made_of": json.loads(json.dumps(made_of, default=str)),
                },
            )
        return True

    def _open(self, name: str, stack: contextlib.ExitStack) -> tuple[BinaryIO, dict[str, Any]]:
        """The archive, open, and its record, once both may be trusted.

        The open files are checked, so that nothing can take their place afterwards.

        Raises:
            UntrustedArtefactsError: they may not.
            OSError, ValueError, KeyError, TypeError: there are none, or the record is damaged.
        """
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stack.callback(os.close, folder)

        def opened(path: Path) -> BinaryIO:
            descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            return stack.enter_context(os.fdopen(descriptor, "rb"))

        archive, record = map(opened, self._paths(name))
        content = json.loads(record.read())
        statuses = {
            f"{self._kind}/": os.fstat(folder),
            f"{self._kind}/{name}.tar": os.fstat(archive.fileno()),
            f"{self._kind}/{name}.json": os.fstat(record.fileno()),
        }
        self._trust.check_place(self._cache.root, shared=self._cache.shared)
        self._trust.check(self._kind, name, content, statuses)
        return archive, content

    def _is_kept(self, name: str, state: str) -> bool:
        """Whether files of this state are kept, and can be restored."""
        with (
            contextlib.ExitStack() as stack,
            contextlib.suppress(OSError, ValueError, KeyError, TypeError, UntrustedArtefactsError),
        ):
            return bool(self._open(name, stack)[1]["state"] == state)
        return False

    def _note_use(self, name: str) -> None:
        archive, _ = self._paths(name)
        with contextlib.suppress(OSError):  # eviction then goes by an older time of use
            os.utime(archive, (self._cache.leases.now(), archive.stat().st_mtime))

    def _paths(self, name: str) -> tuple[Path, Path]:
        return self._folder / f"{name}{ARCHIVE_SUFFIX}", self._folder / f"{name}.json"


def _files(folder: Path) -> list[tuple[str, Path]]:
    """The plain files below a folder with their paths inside it, links left out."""
    return sorted(
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def _merge(source: Path, target: Path) -> int:
    """Move the files that the target lacks; each appears complete, by rename. Returns their bytes."""
    moved = 0
    for inside, path in _files(source):
        place = target / inside
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            moved += path.stat().st_size
            path.replace(place)
    return moved
