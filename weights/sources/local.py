"""Models in folders: on a local disk, or on a mounted EFS, FSx or NFS share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from weights.errors import AccessDeniedError, NotFoundError, ObjectChangedError, TransferError
from weights.manifest import FileEntry
from weights.sources.source import Arrived

_IN_PLACE = "it is used in place, on a file system, which declares no checksums"


class LocalSource:
    """A folder: a local disk, or a mounted EFS, FSx or NFS share."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    @property
    def uri(self) -> str:
        """The folder as a path."""
        return str(self._path)

    @property
    def identity(self) -> str:
        """The folder as a path."""
        return self.uri

    @property
    def path(self) -> Path:
        """The folder itself: its files are used in place."""
        return self._path

    def list(self) -> tuple[FileEntry, ...]:
        """Files below the folder; symbolic links are followed."""
        if not self._path.exists():
            raise NotFoundError(f"{self._path}: no such folder; must be the folder of a model", uri=self.uri)
        if not self._path.is_dir():
            raise NotFoundError(f"{self._path}: is a file; must be the folder of a model", uri=self.uri)
        found = []
        try:
            for folder, _, files in os.walk(self._path, onerror=_raise):
                for name in files:
                    path = Path(folder, name)
                    found.append(self._entry(path.relative_to(self._path).as_posix(), path.stat()))
        except PermissionError as error:
            raise AccessDeniedError(
                f"{error.filename}: may not be read; {error.strerror}", uri=self.uri
            ) from None
        return tuple(sorted(found, key=lambda entry: entry.path))

    def entry(self, path: str) -> FileEntry:
        """A file as it is now. Raises NotFoundError."""
        try:
            return self._entry(path, (self._path / path).stat())
        except FileNotFoundError:
            raise NotFoundError(f"{self._path / path}: no such file", uri=str(self._path / path)) from None

    def declare_checksums(self, entries: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """The entries: a file system declares no checksums."""
        return tuple(dataclasses.replace(entry, unchecked_because=_IN_PLACE) for entry in entries)

    def read_into(
        self, entry: FileEntry, offset: int, view: memoryview, arrived: Arrived | None = None
    ) -> None:
        """Read with `preadv`, without a copy in between."""
        path = self._path / entry.path
        try:
            with path.open("rb", buffering=0) as file:
                if self._entry(entry.path, os.fstat(file.fileno())).etag != entry.etag:
                    raise ObjectChangedError(f"{path}: was replaced during the read", uri=str(path))
                done = 0
                while done < len(view):
                    count = os.preadv(file.fileno(), [view[done:]], offset + done)
                    if count == 0:
                        raise ObjectChangedError(f"{path}: became shorter during the read", uri=str(path))
                    if arrived is not None:
                        arrived(view[done : done + count])
                    done += count
        except FileNotFoundError:
            raise NotFoundError(f"{path}: no such file", uri=str(path)) from None
        except PermissionError:
            raise AccessDeniedError(f"{path}: may not be read", uri=str(path)) from None
        except OSError as error:
            raise TransferError(f"{path}: {error.strerror}", uri=str(path)) from None

    def close(self) -> None:
        """Return: no file is kept open."""

    @staticmethod
    def _entry(path: str, status: os.stat_result) -> FileEntry:
        return FileEntry(path, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}")


def _raise(error: OSError) -> None:
    raise error
