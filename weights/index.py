"""The index of a model's weights: which tensor is in which file, and what it decides. Pure."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from weights.errors import RefusedError
from weights.manifest import SafetensorsHeader, check_path
from weights.strict_json import DuplicateKeyError, no_duplicate_keys
from weights.wording import listed

INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 100_000_000
"""As for headers: ten times the largest index that is known."""
_SUFFIX = ".safetensors.index.json"
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,6})-of-(?P<count>\d{1,6})\.safetensors")


def find_index(paths: Iterable[str]) -> str | None:
    """The index among a model's files: the usual name, else the only one that looks like an index.

    Mistral's own format calls it `consolidated.safetensors.index.json`.
    """
    found = sorted(path for path in paths if path.endswith(_SUFFIX) and "/" not in path)
    if INDEX in found:
        return INDEX
    return found[0] if len(found) == 1 else None


def parse_index(content: bytes, file: str = INDEX) -> dict[str, str]:
    """The index's map from tensor name to file, paths checked.

    Raises:
        RefusedError: it is no index, or it names a file outside of the model.
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


def check_shards(index: Mapping[str, str], present: Iterable[str], file: str = INDEX) -> None:
    """Every shard that the index names is there.

    Args:
        index: from `parse_index`.
        present: the safetensors files that are there.
        file: of the index, for the message.

    Raises:
        RefusedError: says how many are missing and what is there instead.
    """
    named, there = set(index.values()), set(present)
    missing = sorted(named - there)
    if not missing:
        return
    found = f"; of its shards there {_are(sorted(named & there))}" if named & there else ""
    others = sorted(there - named)
    strangers = (
        f"; the index does not name {listed(others)}, which {_is(others)} there: is it an old index?"
        if others
        else ""
    )
    raise RefusedError(
        file,
        f"names {len(named)} shards, of which {len(missing)} {_is(missing)} missing: "
        f"{listed(missing)}{found}{strangers}",
    )


def check_numbers(present: Iterable[str]) -> None:
    """Without an index, files named `NAME-00001-of-00004.safetensors` are all there.

    Raises:
        RefusedError: says how many are missing and what is there.
    """
    groups: dict[tuple[str, str], dict[int, str]] = {}
    for path in present:
        if match := _NUMBERED.fullmatch(path):
            groups.setdefault((match["stem"], match["count"]), {})[int(match["number"])] = path
    for (stem, count), found in groups.items():
        wanted = int(count)
        if len(found) < wanted:
            first = min(found)
            raise RefusedError(
                found[first],
                f"is one of {wanted} files {stem}-…-of-{count}.safetensors, of which "
                f"{wanted - len(found)} {'is' if wanted - len(found) == 1 else 'are'} missing; "
                f"there {_are([found[number] for number in sorted(found)])}",
            )


def settle(
    headers: Sequence[SafetensorsHeader], index: Mapping[str, str] | None, file: str = INDEX
) -> tuple[SafetensorsHeader, ...]:
    """Decide which tensors count, and mark all others as ignored in their headers.

    With an index, a tensor counts in the file that the index names, and only there; tensors that it does not
    name are ignored. Without one, each tensor may be in one file only: which copy an engine would use is
    chance.

    Raises:
        RefusedError: a tensor is not in the file that the index names, or is in two files without an index.
    """
    owners: dict[str, list[str]] = {}
    for header in headers:
        for tensor in header.tensors:
            owners.setdefault(tensor.name, []).append(header.file)
    if index is None:
        for name, files in owners.items():
            if len(files) > 1:
                raise RefusedError(
                    files[1], f"tensor {name!r} is also in {files[0]}, and no index says which one counts"
                )
        return tuple(headers)
    shards = {header.file for header in headers}
    for name, shard in index.items():
        if shard not in shards:
            raise RefusedError(file, f"names the shard {shard!r}, which is missing")
        if shard not in owners.get(name, ()):
            elsewhere = f" ({owners[name][0]} has it)" if name in owners else ""
            raise RefusedError(
                file, f"puts tensor {name!r} into {shard!r}, which does not have it{elsewhere}"
            )
    return tuple(
        dataclasses.replace(
            header,
            ignored=frozenset(
                tensor.name for tensor in header.tensors if index.get(tensor.name) != header.file
            ),
        )
        for header in headers
    )


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _are(names: Sequence[str]) -> str:
    return f"{_is(names)} {listed(names)}"
