"""From a model's address to the source that it names."""

from __future__ import annotations

import os
from pathlib import Path

from weights.sources.address import parse_uri
from weights.sources.local import LocalSource
from weights.sources.retry_policy import ReadRetryPolicy
from weights.sources.source import Source


def open_source(uri: str | os.PathLike[str], *, retry: ReadRetryPolicy | None = None) -> Source:
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
