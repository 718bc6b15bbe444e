"""The errors between an object store and a loaded model.

    WeightsError
    ├── InvalidURIError          the model's address has none of the known forms
    ├── SourceError              the source that it names does not deliver the bytes
    │   ├── NotFoundError          no such bucket, prefix, key or folder
    │   ├── AccessDeniedError      403, expired or unknown credentials
    │   ├── NoCredentialsError     the credentials chain ended without any
    │   ├── UnreachableError       no connection to the endpoint
    │   ├── TransferError          a read failed at every attempt
    │   └── ObjectChangedError     another version took the object's place during a read
    ├── RefusedError             the bytes are there and must not be loaded
    ├── IntegrityError           the bytes are not the ones that were promised
    └── CacheError               the cache cannot be written (full, read-only)

Clients' own exceptions (botocore, http.client, OSError from sockets) stop at the source that raised them:
callers handle these few, and every message names the address, the cause and what would be right.
"""

from __future__ import annotations


class WeightsError(Exception):
    """Base of all errors of this package."""


class InvalidURIError(WeightsError, ValueError):
    """A model address that is neither `s3://bucket/prefix` nor `file:///folder` nor a path."""


class SourceError(WeightsError):
    """The source of the weights does not deliver. `uri` says which one."""

    def __init__(self, message: str, *, uri: str) -> None:
        super().__init__(message)
        self.uri = uri


class NotFoundError(SourceError):
    """No such bucket, no object under the prefix, or no such folder."""


class AccessDeniedError(SourceError):
    """The store denies access, or does not accept the credentials."""


class NoCredentialsError(SourceError):
    """No credentials anywhere in the chain."""


class UnreachableError(SourceError):
    """The endpoint does not answer."""


class TransferError(SourceError):
    """A read failed, and failed again each time it was repeated."""


class ObjectChangedError(SourceError):
    """The object was replaced while it was being read; the two versions must not be mixed."""


class RefusedError(WeightsError):
    """A file that must not be loaded. `file` names it."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class IntegrityError(WeightsError):
    """Bytes that are not what their checksum says."""


class CacheError(WeightsError):
    """The cache folder cannot be used."""
