"""Computing the checksums of a file, fed in the order of its bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Protocol

from weights.checksums import Checksum, ChecksumAlgorithm
from weights.errors import IntegrityError


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A cyclic redundancy check with the interface of `hashlib`."""

    def __init__(self, function: Callable[[memoryview, int], int], length: int) -> None:
        self._function = function
        self._length = length
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


def new_hash(algorithm: ChecksumAlgorithm) -> _Hash:
    """A fresh computation of an algorithm."""
    match algorithm:
        case ChecksumAlgorithm.SHA256:
            return hashlib.sha256()
        case ChecksumAlgorithm.SHA1:
            return hashlib.sha1(usedforsecurity=False)
        case ChecksumAlgorithm.CRC32:
            return _Crc(zlib.crc32, 4)
    # Imported when needed: most of its 12 MB serve other purposes.
    from awscrt import checksums  # noqa: PLC0415

    return (
        _Crc(checksums.crc64nvme, 8)
        if algorithm is ChecksumAlgorithm.CRC64NVME
        else _Crc(checksums.crc32c, 4)
    )


class ContentHash:
    """The SHA-256 of a file, and whether the file is what its source declared."""

    def __init__(self, path: str, checksum: Checksum | None, *, need_sha256: bool = True) -> None:
        """Begin at the file's first byte.

        Args:
            path: of the file, for messages.
            checksum: that its source declares, if it does.
            need_sha256: False computes only what `checksum` needs.
        """
        self._path = path
        self._checksum = checksum
        self._is_sha256 = (
            checksum is not None
            and checksum.algorithm is ChecksumAlgorithm.SHA256
            and len(checksum.pieces) == 1
        )
        self._sha256 = hashlib.sha256() if need_sha256 or self._is_sha256 else None
        self._piece = 0
        self._in_piece = 0
        """Bytes of the present piece that have been hashed."""
        self._hash: _Hash | None = None
        self._problem: str | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 in hexadecimal of what has been fed so far."""
        assert self._sha256 is not None
        return self._sha256.hexdigest()

    def update(self, data: memoryview) -> None:
        """Feed the next bytes of the file."""
        if self._sha256 is not None:
            self._sha256.update(data)
        if self._checksum is None or self._is_sha256:
            return
        while data and self._piece < len(self._checksum.pieces):
            if self._hash is None:
                self._hash = new_hash(self._checksum.algorithm)
            left = self._checksum.pieces[self._piece].size - self._in_piece
            self._hash.update(data[:left])
            self._in_piece += min(left, len(data))
            data = data[left:]
            self._finish_piece()

    def check(self) -> None:
        """Compare with what the source declared; the whole file must have been fed.

        Raises:
            IntegrityError: it is another file.
        """
        if self._checksum is None:
            return
        if self._is_sha256:
            self._compare(bytes.fromhex(self.sha256))
        elif self._hash is None and self._piece == 0:  # an empty file
            self._compare(new_hash(self._checksum.algorithm).digest())
        if self._problem is not None:
            raise IntegrityError(f"{self._path}: {self._problem}")

    def _finish_piece(self) -> None:
        assert self._checksum is not None
        if self._hash is not None and self._in_piece == self._checksum.pieces[self._piece].size:
            self._compare(self._hash.digest())
            self._hash = None
            self._in_piece = 0
            self._piece += 1

    def _compare(self, found: bytes) -> None:
        assert self._checksum is not None
        algorithm, pieces = self._checksum.algorithm, self._checksum.pieces
        expected = pieces[min(self._piece, len(pieces) - 1)].digest
        if found == expected or self._problem is not None:
            return
        part = "" if len(pieces) == 1 else f" in the object's part {self._piece + 1} of {len(pieces)}"
        name = "SHA-256" if algorithm is ChecksumAlgorithm.SHA256 else algorithm.value
        self._problem = f"the bytes that arrived{part} have {name} {found.hex()}, must be {expected.hex()}"
