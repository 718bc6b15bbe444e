"""What a model consists of: its files and their tensors, at one version. Pure values."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from weights.errors import RefusedError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file of a model as its source lists it.

    `path` is relative to the model, with forward slashes. `etag` names the version: equal ETags of one object
    mean equal bytes. `sha256` is None until the source declares it or the bytes have been read once.
    """

    path: str
    size: int
    etag: str
    sha256: str | None = None

    @property
    def is_weights(self) -> bool:
        """Whether the file holds tensors."""
        return self.path.endswith(".safetensors")


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


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A model at one version: its files and, where there are weights, their headers."""

    uri: str
    files: tuple[FileEntry, ...]
    headers: tuple[SafetensorsHeader, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def parameters(self) -> int:
        """Values in all tensors."""
        return sum(tensor.parameters for header in self.headers for tensor in header.tensors)

    @property
    def dtypes(self) -> dict[str, int]:
        """Values by data type."""
        counts: dict[str, int] = {}
        for header in self.headers:
            for tensor in header.tensors:
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.parameters
        return counts


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


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as it is kept beside a cached model. Headers are left out: the files carry them."""
    return {
        "uri": manifest.uri,
        "files": [dataclasses.asdict(file) for file in manifest.files],
        "skipped": list(manifest.skipped),
    }


def from_json(content: Mapping[str, Any]) -> Manifest:
    """The reverse of `to_json`.

    Raises:
        ValueError: `content` is not such a manifest.
    """
    try:
        files = tuple(
            FileEntry(str(file["path"]), int(file["size"]), str(file["etag"]), file["sha256"])
            for file in content["files"]
        )
        uri, skipped = str(content["uri"]), tuple(str(path) for path in content["skipped"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a manifest: {error!r}") from None
    for file in files:
        check_path(file.path)
        if file.sha256 is not None and not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"sha256 = {file.sha256!r} of {file.path}, must be 64 hexadecimal digits")
    return Manifest(uri, files, (), skipped)
