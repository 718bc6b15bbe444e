"""Model weights: from S3 or a shared folder, verified and cached, to the device."""

from weights.cache.downloader import Progress
from weights.errors import (
    AccessDeniedError,
    CacheError,
    IntegrityError,
    InvalidURIError,
    NoCredentialsError,
    NotFoundError,
    ObjectChangedError,
    RefusedError,
    SourceError,
    TransferError,
    UnreachableError,
    WeightsError,
)
from weights.manifest import FileEntry, Manifest
from weights.pull import Prefetched, PulledModel, prefetch, pull, pull_blocking
from weights.sources.retry_policy import RetryPolicy

__all__ = [
    "AccessDeniedError",
    "CacheError",
    "FileEntry",
    "IntegrityError",
    "InvalidURIError",
    "Manifest",
    "NoCredentialsError",
    "NotFoundError",
    "ObjectChangedError",
    "Prefetched",
    "Progress",
    "PulledModel",
    "RefusedError",
    "RetryPolicy",
    "SourceError",
    "TransferError",
    "UnreachableError",
    "WeightsError",
    "prefetch",
    "pull",
    "pull_blocking",
]
