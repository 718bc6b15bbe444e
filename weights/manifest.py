"""What a model consists of: its files and their tensors, at one version. Pure values."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from weights.checksums import Checksum
from weights.errors import RefusedError

_MODULE = re.compile(r"\d+_\w+/")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file of a model at one version."""

    path: str
    """Relative to the model, with forward slashes."""
    size: int
    """In bytes."""
    etag: str
    """The version: equal ETags of one object mean equal bytes."""
    sha256: str | None = None
    """Of the content; None until it has been read once."""
    checksum: Checksum | None = None
    """What the source declares for the content; None before it was asked, and where it declares nothing."""
    checked_by: str | None = None
    """The declared checksum that the bytes were compared with, in words; None if there was none."""
    unchecked_because: str | None = None
    """Why there was none."""

    @property
    def is_weights(self) -> bool:
        """Whether the file holds tensors of the model; those of a Sentence Transformers module are not."""
        return self.path.endswith(".safetensors") and _MODULE.match(self.path) is None


@dataclasses.dataclass(frozen=True)
class SkippedFile:
    """A file of the source that is not fetched, and why."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: from byte `begin` to `end` (exclusive) of its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.end - self.begin

    @property
    def parameters(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class SafetensorsHeader:
    """A checked header: tensors in the order of their bytes, which begin at `data_start`."""

    file: str
    data_start: int
    tensors: tuple[TensorEntry, ...]
    ignored: frozenset[str] = frozenset()
    """Names of tensors that do not count here: the index does not name them, or names another file."""

    @property
    def counted(self) -> Iterator[TensorEntry]:
        """The tensors that an engine gets."""
        return (tensor for tensor in self.tensors if tensor.name not in self.ignored)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A model at one version: its files and, where there are weights, their headers."""

    uri: str
    files: tuple[FileEntry, ...]
    headers: tuple[SafetensorsHeader, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def parameters(self) -> int:
        """Values in all tensors."""
        return sum(tensor.parameters for header in self.headers for tensor in header.counted)

    @property
    def dtypes(self) -> dict[str, int]:
        """Values by data type."""
        counts: dict[str, int] = {}
        for header in self.headers:
            for tensor in header.counted:
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.parameters
        return counts

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """`FILE: TENSOR` of every tensor that does not count where it is."""
        return tuple(f"{header.file}: {name}" for header in self.headers for name in sorted(header.ignored))


def check_path(path: str, *, file: str | None = None) -> None:
    """Refuse a relative path that climbs out of its folder or means different things to different systems.

    Args:
        path: with forward slashes.
        file: the file that names the path; the path itself when None.
    """
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        named = "" if file is None else f"names {path!r}, which "
        raise RefusedError(file or path, f"{named}must be a plain path inside the model's folder")


def file_to_json(file: FileEntry) -> dict[str, Any]:
    """A file of a manifest as it is kept and printed; what its source declared is left out."""
    return {
        "path": file.path,
        "size": file.size,
        "etag": file.etag,
        "sha256": file.sha256,
        "checked_by": file.checked_by,
        "unchecked_because": file.unchecked_because,
    }


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is kept beside a cached model. Headers are left out: the files carry them."""
    return {
        "uri": manifest.uri,
        "files": [file_to_json(file) for file in manifest.files],
        "skipped": [dataclasses.asdict(skipped) for skipped in manifest.skipped],
    }


def from_json(content: Mapping[str, Any]) -> Manifest:
    """The reverse of `to_json`.

    Raises:
        ValueError: `content` is not such a manifest.
    """
    try:
        files = tuple(
            FileEntry(
                str(file["path"]),
                int(file["size"]),
                str(file["etag"]),
                file["sha256"],
                checked_by=file["checked_by"],
                unchecked_because=file["unchecked_because"],
            )
            for file in content["files"]
        )
        uri = str(content["uri"])
        skipped = tuple(SkippedFile(str(one["path"]), str(one["reason"])) for one in content["skipped"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a manifest: {error!r}") from None
    for file in files:
        check_path(file.path)
        if file.sha256 is not None and not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"sha256 = {file.sha256!r} of {file.path}, must be 64 hexadecimal digits")
    return Manifest(uri, files, (), skipped)
