"""What a model consists of, and whether it may be loaded. Pure: bytes and names in, values out.

A safetensors file is an unsigned 64-bit little-endian length, that many bytes of JSON, and the tensors'
bytes, which the JSON's `data_offsets` must cover without a gap or an overlap
(https://github.com/huggingface/safetensors#format). Everything is checked here before a byte of it reaches
an engine, because a header from a bucket is untrusted input.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weights.errors import NotFoundError, RefusedError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""
INDEX = "model.safetensors.index.json"
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".th")
_NOT_FOR_SERVING = (
    "*.md",
    "*.gguf",
    "*.onnx",
    "*.msgpack",
    "*.h5",
    "*.png",
    "*.jpg",
    "LICENSE*",
    ".*",
    "*.ot",
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file of a model as its source lists it.

    `path` is relative to the model, with forward slashes. `etag` names the version; equal etags of one object
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
    """Where one tensor lies: `begin` and `end` count bytes from the start of the file."""

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


_TENSOR_KEYS = {"dtype", "shape", "data_offsets"}


def header_length(file: str, first_bytes: bytes, size: int) -> int:
    """Length of a safetensors header in bytes, from the first eight bytes of a file of `size` bytes."""
    if size < 8 or len(first_bytes) < 8:
        raise RefusedError(file, f"{size} bytes long, a safetensors file has at least 8")
    (length,) = struct.unpack("<Q", first_bytes[:8])
    if length > MAX_HEADER_BYTES:
        raise RefusedError(file, f"its header claims {length} bytes, must be at most {MAX_HEADER_BYTES}")
    if 8 + length > size:
        raise RefusedError(file, f"its header claims {length} bytes and the file has only {size}")
    return int(length)


def parse_header(file: str, head: bytes, size: int) -> SafetensorsHeader:
    """Check a header completely.

    Args:
        file: name for messages.
        head: the file's beginning, at least up to the end of the header.
        size: the file's size in bytes.

    Raises:
        RefusedError: anything at all is not as the format demands.
    """
    length = header_length(file, head, size)
    try:
        content = json.loads(head[8 : 8 + length], object_pairs_hook=_no_duplicates)
    except _DuplicateError as error:
        raise RefusedError(file, f"its header names {error.args[0]!r} twice") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError(file, f"its header is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise RefusedError(file, "its header is not a JSON object")
    content.pop("__metadata__", None)
    start = 8 + length
    tensors = sorted(
        (_tensor(file, name, value, start, size) for name, value in content.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    expected = start
    for tensor in tensors:
        if tensor.begin != expected:
            what = "overlaps the one before it" if tensor.begin < expected else "leaves a gap before it"
            raise RefusedError(file, f"tensor {tensor.name!r} {what}")
        expected = tensor.end
    if expected != size:
        raise RefusedError(file, f"its tensors end at byte {expected} and the file at byte {size}")
    return SafetensorsHeader(file, start, tuple(tensors))


class _DuplicateError(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateError(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return result


def _tensor(file: str, name: str, value: Any, start: int, size: int) -> TensorEntry:
    # Once for every tensor of every start, thousands of times for a large model.
    if not isinstance(value, dict) or value.keys() != _TENSOR_KEYS:
        raise _refused(file, name, "must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _refused(file, name, f"dtype = {dtype!r}, must be one of {', '.join(sorted(DTYPE_BITS))}")
    if not _natural_numbers(shape):
        raise _refused(file, name, f"shape = {shape!r}, must be a list of whole numbers from 0")
    if not _natural_numbers(offsets) or len(offsets) != 2:
        raise _refused(file, name, f"data_offsets = {offsets!r}, must be two whole numbers from 0")
    begin, end = offsets
    if not begin <= end <= size - start:
        raise _refused(file, name, f"data_offsets = {offsets}, must rise and end by {size - start}")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - begin):
        what = f"{dtype} of shape {shape} takes {bits / 8:g} bytes and data_offsets give {end - begin}"
        raise _refused(file, name, what)
    return TensorEntry(name, dtype, tuple(shape), start + begin, start + end)


def _refused(file: str, name: str, reason: str) -> RefusedError:
    return RefusedError(file, f"tensor {name!r}: {reason}")


def _natural_numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:  # noqa: SIM110 - a generator takes twice as long
        # bool is an int in Python, and a shape like [true] must not pass for [1].
        if type(item) is not int or item < 0:
            return False
    return True


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


def parse_index(content: bytes, file: str = INDEX) -> dict[str, str]:
    """The index's map from tensor name to file, paths checked.

    Raises:
        RefusedError: not an index, or it names a file outside of the model.
    """
    try:
        parsed = json.loads(content, object_pairs_hook=_no_duplicates)
    except _DuplicateError as error:
        raise RefusedError(file, f"names {error.args[0]!r} twice") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError(file, f"is not JSON ({error})") from None
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise RefusedError(file, "must have a weight_map from tensor names to file names")
    for shard in sorted(set(weight_map.values())):
        check_path(shard, file=file)
        if not shard.endswith(".safetensors"):
            raise RefusedError(file, f"names {shard!r}, must name safetensors files only")
    return weight_map


def check_index(
    weight_map: Mapping[str, str], headers: Sequence[SafetensorsHeader], file: str = INDEX
) -> None:
    """Every tensor that the index names is in the shard it names.

    Raises:
        RefusedError: a shard is missing, or lacks a tensor.
    """
    inside = {header.file: {tensor.name for tensor in header.tensors} for header in headers}
    for name, shard in weight_map.items():
        if shard not in inside:
            raise RefusedError(file, f"names the shard {shard!r}, which is missing")
        if name not in inside[shard]:
            raise RefusedError(file, f"puts tensor {name!r} into {shard!r}, which does not have it")


def check_duplicates(headers: Iterable[SafetensorsHeader]) -> None:
    """No tensor is in two files: which one an engine would load is chance.

    Raises:
        RefusedError: names the second file.
    """
    owner: dict[str, str] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in owner:
                raise RefusedError(header.file, f"tensor {tensor.name!r} is also in {owner[tensor.name]}")
            owner[tensor.name] = header.file


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which of a source's files belong to the model."""

    files: tuple[FileEntry, ...]
    skipped: tuple[str, ...]


def select(
    files: Iterable[FileEntry], patterns: Sequence[str] | None, *, uri: str, index: Mapping[str, str] | None
) -> Selection:
    """Choose the files to fetch.

    Without patterns: everything in the model's own folder that serving needs. Folders below it, and what no
    engine reads (other formats, pictures), are skipped. With an index, only the weights that it names.
    With patterns (`fnmatch`, on the relative path): exactly the files that match.

    Raises:
        RefusedError: a pickle is among them.
        NotFoundError: nothing is.
    """
    chosen: list[FileEntry] = []
    skipped: list[str] = []
    shards = None if index is None else set(index.values())
    for entry in sorted(files, key=lambda entry: entry.path):
        if patterns is not None:
            wanted = any(fnmatch.fnmatchcase(entry.path, pattern) for pattern in patterns)
        else:
            wanted = "/" not in entry.path and not any(
                fnmatch.fnmatchcase(entry.path, pattern) for pattern in _NOT_FOR_SERVING
            )
            if shards is not None and entry.is_weights:
                wanted = entry.path in shards
        if not wanted:
            skipped.append(entry.path)
            continue
        check_path(entry.path)
        if entry.path.lower().endswith(PICKLES):
            raise RefusedError(
                entry.path,
                "a pickle runs code when it is loaded; only safetensors weights are accepted "
                "(convert it, or leave it out by patterns such as *.safetensors and *.json)",
            )
        chosen.append(entry)
    if shards is not None:
        missing = sorted(shards - {entry.path for entry in chosen} - set(skipped))
        if missing:
            raise RefusedError(INDEX, f"names the shard {missing[0]!r}, which is missing")
    if not chosen:
        wanted_names = "any file of a model" if patterns is None else f"any of {', '.join(patterns)}"
        raise NotFoundError(f"{uri}: does not hold {wanted_names}", uri=uri)
    return Selection(tuple(chosen), tuple(skipped))


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
