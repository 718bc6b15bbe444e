"""Where weights come from: one protocol, `s3://bucket/prefix`, `file:///folder` and plain paths.

All methods block and may be called from many threads at once; callers with an event loop use a thread.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

from weights.errors import (
    AccessDeniedError,
    InvalidURIError,
    NotFoundError,
    ObjectChangedError,
    TransferError,
)
from weights.manifest import FileEntry
from weights.sources.ranged_reads import RetryPolicy

_FORMS = "must be s3://BUCKET/PREFIX, file:///FOLDER or a path"


@dataclasses.dataclass(frozen=True)
class S3Location:
    """A prefix in a bucket, without slashes at its ends; empty for the whole bucket."""

    bucket: str
    prefix: str


Arrived: TypeAlias = Callable[[memoryview], object]
"""Is told of each piece of a read, in order, while the processor's cache still knows it."""


class Source(Protocol):
    """A folder of objects that can be listed and read in ranges."""

    @property
    def uri(self) -> str:
        """The folder's address."""
        ...

    @property
    def identity(self) -> str:
        """What tells this folder from every other one: the address and the endpoint that resolves it."""
        ...

    def list(self) -> tuple[FileEntry, ...]:
        """Every object below the folder. Raises SourceError."""
        ...

    def head(self, entry: FileEntry) -> FileEntry:
        """The entry at its present version, with its SHA-256 if the source knows it. Raises SourceError."""
        ...

    def read_into(
        self, entry: FileEntry, offset: int, view: memoryview, arrived: Arrived | None = None
    ) -> None:
        """Fill `view` from byte `offset` of exactly that version.

        Args:
            entry: of the object.
            offset: first byte to read.
            view: writable.
            arrived: called with each piece of `view` once it holds its bytes, in order.

        Raises:
            ObjectChangedError: the object is another version now.
            SourceError: it cannot be read.
        """
        ...

    def close(self) -> None:
        """Give up connections; reads under way end with an error."""
        ...


def parse_uri(uri: str | os.PathLike[str]) -> S3Location | Path:
    """Split a model's address.

    Raises:
        InvalidURIError: it has none of the three forms.
    """
    text = os.fspath(uri)
    if not text.strip():
        raise InvalidURIError(f"model URI = {text!r}, {_FORMS}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text).expanduser()
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if not bucket or any(character.isspace() for character in bucket):
            raise InvalidURIError(f"model URI = {text!r}, {_FORMS}")
        return S3Location(bucket, prefix.strip("/"))
    if scheme == "file":
        parts = urllib.parse.urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidURIError(f"model URI = {text!r}, must be file:/// and an absolute path")
        return Path(urllib.parse.unquote(parts.path))
    raise InvalidURIError(f"model URI = {text!r}, {_FORMS}")


def open_source(uri: str | os.PathLike[str], *, retry: RetryPolicy | None = None) -> Source:
    """The source that an address names. Nothing is read yet.

    Raises:
        InvalidURIError: it is no address.
        NoCredentialsError: it is in S3 and the credentials chain ends empty.
    """
    location = parse_uri(uri)
    if isinstance(location, Path):
        return LocalSource(location)
    # botocore takes a quarter of a second to import, and a model on a mounted folder needs none of it.
    from weights.sources.s3 import S3Source  # noqa: PLC0415

    return S3Source(location, retry=retry)


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

    def head(self, entry: FileEntry) -> FileEntry:
        """The file as it is now."""
        path = self._path / entry.path
        try:
            return self._entry(entry.path, path.stat())
        except FileNotFoundError:
            raise NotFoundError(f"{path}: no such file", uri=str(path)) from None

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
        """Nothing is held."""

    @staticmethod
    def _entry(path: str, status: os.stat_result) -> FileEntry:
        return FileEntry(path, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}")


def _raise(error: OSError) -> None:
    raise error
