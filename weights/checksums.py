"""The checksums that an object store declares for an object. Pure values.

A checksum covers the whole object or, after a multipart upload, each uploaded part; the store then shows a
composite value, the checksum of the parts' checksums, which says nothing about the bytes unless the parts'
own checksums and sizes are known
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
from collections.abc import Mapping
from typing import Any


class ChecksumAlgorithm(enum.StrEnum):
    """Algorithms that can be computed here, in the order of preference."""

    SHA256 = "SHA256"
    SHA1 = "SHA1"
    CRC64NVME = "CRC64NVME"
    CRC32C = "CRC32C"
    CRC32 = "CRC32"

    @property
    def is_quick(self) -> bool:
        """Whether it is computed about as fast as memory is read."""
        return self in {ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C}


_LENGTHS = {
    ChecksumAlgorithm.SHA256: 32,
    ChecksumAlgorithm.SHA1: 20,
    ChecksumAlgorithm.CRC64NVME: 8,
    ChecksumAlgorithm.CRC32C: 4,
    ChecksumAlgorithm.CRC32: 4,
}
_PREFERRED: tuple[ChecksumAlgorithm, ...] = tuple(ChecksumAlgorithm)
_NEVER_COMPOSITE = ChecksumAlgorithm.CRC64NVME
"""S3 computes it over the whole object, also after a multipart upload."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of an object's bytes and its checksum."""

    size: int
    digest: bytes


@dataclasses.dataclass(frozen=True)
class Checksum:
    """What a store declares: one piece for the whole object, else one for each uploaded part."""

    algorithm: ChecksumAlgorithm
    pieces: tuple[Piece, ...]

    @property
    def label(self) -> str:
        """The checksum in words, such as `CRC64NVME` or `SHA256 of 3 parts`."""
        count = len(self.pieces)
        return self.algorithm.value if count == 1 else f"{self.algorithm.value} of {count} parts"


@dataclasses.dataclass(frozen=True)
class Composite:
    """A checksum of checksums: the bytes can be checked only with those of the `parts` uploaded parts."""

    algorithm: ChecksumAlgorithm
    parts: int | None
    """None where the store does not say."""


def declared(head: Mapping[str, Any], *, etag: str, size: int) -> Checksum | Composite | None:
    """What the response to a HEAD request with `ChecksumMode=ENABLED` declares; None if it declares nothing.

    A value is composite if it ends in `-N`, if `ChecksumType` says so, or if the ETag ends in `-N` (the
    object was uploaded in parts) and nothing says that the value covers the whole object: some stores do not
    mark composite values.

    Args:
        head: the response, as boto3 parses it.
        etag: of the object.
        size: of the object, in bytes.
    """
    uploaded_parts = _part_count(etag.strip('"'))
    kind = head.get("ChecksumType")
    composite: Composite | None = None
    for algorithm in _PREFERRED:
        text = head.get(f"Checksum{algorithm.value}")
        if not isinstance(text, str):
            continue
        parts = _part_count(text)
        full = algorithm is _NEVER_COMPOSITE or kind == "FULL_OBJECT" or uploaded_parts is None
        if parts is not None or kind == "COMPOSITE" or not full:
            composite = composite or Composite(algorithm, parts or uploaded_parts)
            continue
        digest = decode(algorithm, text)
        if digest is not None:
            return Checksum(algorithm, (Piece(size, digest),))
    return composite


def of_parts(algorithm: ChecksumAlgorithm, parts: list[Mapping[str, Any]], *, size: int) -> Checksum | None:
    """The checksum that the uploaded parts of an object declare (`ObjectParts` of GetObjectAttributes).

    Args:
        algorithm: of the composite checksum.
        parts: as boto3 parses them.
        size: of the object, in bytes.

    Returns:
        None unless every byte of the object is in a part whose checksum is known.
    """
    pieces = []
    for part in sorted(parts, key=lambda part: int(part.get("PartNumber", 0))):
        digest = decode(algorithm, part.get(f"Checksum{algorithm.value}"))
        if digest is None:
            return None
        pieces.append(Piece(int(part.get("Size", 0)), digest))
    return Checksum(algorithm, tuple(pieces)) if sum(piece.size for piece in pieces) == size else None


def decode(algorithm: ChecksumAlgorithm, text: object) -> bytes | None:
    """The bytes of a checksum in base64; None if it is not one of this algorithm."""
    if not isinstance(text, str):
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == _LENGTHS[algorithm] else None


def _part_count(text: str) -> int | None:
    """N of a checksum or an ETag that ends in `-N`."""
    _, separator, count = text.rpartition("-")
    return int(count) if separator and count.isascii() and count.isdigit() and len(count) <= 5 else None
