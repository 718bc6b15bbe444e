"""Model weights: from S3 or a shared folder, verified and cached, to the device.

The names below are imported on first use: a process that only asks where the cache lies
(`weights.cache.location`) then loads no HTTP client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weights.cache.progress import Progress
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
    from weights.prefetch_weights import Prefetched, prefetch
    from weights.pull_model import PulledModel, pull, pull_blocking
    from weights.sources.retry_policy import ReadRetryPolicy

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
    "ReadRetryPolicy",
    "RefusedError",
    "SourceError",
    "TransferError",
    "UnreachableError",
    "WeightsError",
    "prefetch",
    "pull",
    "pull_blocking",
]

_MODULES = {
    "FileEntry": "weights.manifest",
    "Manifest": "weights.manifest",
    "Prefetched": "weights.prefetch_weights",
    "Progress": "weights.cache.progress",
    "PulledModel": "weights.pull_model",
    "ReadRetryPolicy": "weights.sources.retry_policy",
    "prefetch": "weights.prefetch_weights",
    "pull": "weights.pull_model",
    "pull_blocking": "weights.pull_model",
}
"""Where a name comes from; those that are not listed, all of them errors, from `weights.errors`."""


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES.get(name, "weights.errors")), name)
    globals()[name] = value
    return value
