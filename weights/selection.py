"""Which of a source's files make the model, and whether its index agrees with them. Pure."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence

from weights.errors import NotFoundError, RefusedError
from weights.manifest import FileEntry, SafetensorsHeader, check_path
from weights.strict_json import DuplicateKeyError, no_duplicate_keys

INDEX = "model.safetensors.index.json"
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


def parse_index(content: bytes, file: str = INDEX) -> dict[str, str]:
    """The index's map from tensor name to file, paths checked.

    Raises:
        RefusedError: not an index, or it names a file outside of the model.
    """
    try:
        parsed = json.loads(content, object_pairs_hook=no_duplicate_keys)
    except DuplicateKeyError as error:
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
