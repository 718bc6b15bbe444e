"""Which checksum S3 holds for an object, as HeadObject and GetObjectAttributes tell it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import botocore.exceptions

from weights.checksums import Checksum, Composite, declared, of_parts
from weights.errors import ObjectChangedError
from weights.manifest import FileEntry
from weights.sources.s3_errors import DENIED, error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ADVICE = "upload it with a checksum of the whole object, such as CRC64NVME"
_NOT_ALGORITHMS = ("ChecksumType",)


def declare(client: S3Client, bucket: str, key: str, entry: FileEntry, *, uri: str) -> FileEntry:
    """The entry with the checksum that S3 declares for it, or why it declares none that helps.

    Args:
        client: of boto3.
        bucket: of the object.
        key: of the object.
        entry: as listed.
        uri: of the object, for messages.

    Raises:
        ObjectChangedError: the object is another version by now.
        botocore.exceptions.ClientError: the object cannot be asked for.
    """
    head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    if (_bare(head["ETag"]), head["ContentLength"]) != (_bare(entry.etag), entry.size):
        raise ObjectChangedError(
            f"{uri}: was replaced after it was listed (ETag {entry.etag}, now {head['ETag']})", uri=uri
        )
    whole = declared(head, etag=entry.etag, size=entry.size)
    found: Checksum | str
    if isinstance(whole, Composite):
        found = _of_parts(client, bucket, key, entry, whole)
    else:
        found = whole or _nothing_declared(head)
    if isinstance(found, str):
        return dataclasses.replace(entry, unchecked_because=found)
    return dataclasses.replace(entry, checksum=found)


def _bare(etag: str) -> str:
    """An ETag without its quotation marks, which some stores leave out in some responses."""
    return etag.strip('"')


def _nothing_declared(head: Mapping[str, Any]) -> str:
    unknown = [
        name.removeprefix("Checksum")
        for name in head
        if name.startswith("Checksum") and name not in _NOT_ALGORITHMS
    ]
    if unknown:
        return (
            f"the store declares only {', '.join(unknown)} for it, which cannot be computed here; {_ADVICE}"
        )
    return f"the store declares no checksum for it; {_ADVICE}"


def _of_parts(
    client: S3Client, bucket: str, key: str, entry: FileEntry, composite: Composite
) -> Checksum | str:
    """The checksum of the uploaded parts; why they are not known if they are not."""
    composed = f"its {composite.algorithm.value} is composite"
    parts: list[Mapping[str, Any]] = []
    marker = 0
    try:
        while True:
            answer = client.get_object_attributes(
                Bucket=bucket,
                Key=key,
                ObjectAttributes=["ETag", "ObjectParts"],
                PartNumberMarker=marker,
            )
            listed = answer.get("ObjectParts", {})
            parts += listed.get("Parts", [])
            following = int(listed.get("NextPartNumberMarker") or 0)
            if not listed.get("IsTruncated") or following <= marker:
                break
            marker = following
    except botocore.exceptions.ClientError as error:
        code = error_code(error)
        allow = "allow s3:GetObjectAttributes, or " if code in DENIED else ""
        return f"{composed} and the checksums of its parts cannot be read ({code}); {allow}{_ADVICE}"
    same_version = _bare(answer.get("ETag", "")) == _bare(entry.etag)
    found = of_parts(composite.algorithm, parts, size=entry.size) if same_version else None
    return found or f"{composed} and the store does not list the checksums of its parts; {_ADVICE}"
