"""A model's address: `s3://bucket/prefix`, `file:///folder` or a path."""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from pathlib import Path

from weights.errors import InvalidURIError

_FORMS = "must be s3://BUCKET/PREFIX, file:///FOLDER or a path"


@dataclasses.dataclass(frozen=True)
class S3Location:
    """A prefix in a bucket, without slashes at its ends; empty for the whole bucket."""

    bucket: str
    prefix: str


def absolute_uri(uri: str, base: Path) -> str:
    """A model's address that means the same from every folder.

    Args:
        uri: an address.
        base: absolute; what a relative path is relative to.

    Returns:
        A path with neither `~` nor `..`, or the URI as it is.
    """
    if "://" in uri:
        return uri
    return os.path.normpath(base / Path(uri).expanduser())


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
