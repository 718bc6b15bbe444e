"""What to read, in which pieces and in which order. Pure.

A file is divided into *parts*: the unit of a ranged GET, of a digest, and of presence in the cache. Parts
follow the tensors (small ones share a part, large ones span several), so a tensor never begins or ends inside
a part that another tensor spans, and every process that knows the header divides the file the same way.

*Extents* are adjacent parts that hold whole tensors: the unit of a buffer and of delivery to an engine. They
come in the order in which a decoder uses its weights, so that an engine which works layer by layer has
complete layers early.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence

from weights.manifest import SafetensorsHeader, TensorEntry

PART_BYTES = 8 << 20
"""Large enough for the overhead of a request to vanish, small enough to spread over many connections."""
EXTENT_BYTES = 64 << 20
MAPPED_EXTENT_BYTES = 16 << 20
"""Of a mapped file: an extent that was just checked is still in the processor's cache when it is copied."""
_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.")
_FIRST = re.compile(r"embed|wte|wpe|word_embeddings")


@dataclasses.dataclass(frozen=True)
class Part:
    """Bytes `begin` to `end` (exclusive) of a file; `index` counts the file's parts from 0."""

    index: int
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class Extent:
    """Adjacent parts of one file, and the tensors that lie in them."""

    file: str
    parts: tuple[Part, ...]
    tensors: tuple[TensorEntry, ...]

    @property
    def begin(self) -> int:
        """First byte in the file."""
        return self.parts[0].begin

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.parts[-1].end - self.parts[0].begin


def parts_of_file(size: int, part_bytes: int = PART_BYTES) -> tuple[Part, ...]:
    """The parts of a file without tensors: equal pieces; none if the file is empty."""
    starts = range(0, size, part_bytes)
    return tuple(Part(index, begin, min(begin + part_bytes, size)) for index, begin in enumerate(starts))


def parts_of_weights(header: SafetensorsHeader, part_bytes: int = PART_BYTES) -> tuple[Part, ...]:
    """The parts of a weights file: its header, then its tensors, small ones together, large ones divided."""
    ends = [header.data_start]
    begin = header.data_start
    for tensor in header.tensors:
        if tensor.end - begin > part_bytes and tensor.begin > begin:
            ends.append(tensor.begin)
            begin = tensor.begin
        while tensor.end - begin > part_bytes:
            begin += part_bytes
            ends.append(begin)
        if begin > tensor.begin:  # the end of a divided tensor is a part of its own
            if tensor.end > begin:
                ends.append(tensor.end)
            begin = tensor.end
    last = header.tensors[-1].end if header.tensors else header.data_start
    if ends[-1] < last:
        ends.append(last)
    begins = [0, *ends[:-1]]
    return tuple(Part(index, *bounds) for index, bounds in enumerate(zip(begins, ends, strict=True)))


@functools.lru_cache(maxsize=1 << 14)
def decoder_order(name: str) -> tuple[int, int, str]:
    """Sort key of a tensor's name: embeddings, then layers by number, then the rest."""
    layer = _LAYER.search(name)
    if layer:
        return (1, int(layer[1]), "")
    return (0, 0, "") if _FIRST.search(name) else (2, 0, "")


def extents(
    header: SafetensorsHeader,
    parts: Sequence[Part],
    *,
    wanted: Callable[[str], bool] | None = None,
    extent_bytes: int = EXTENT_BYTES,
) -> tuple[Extent, ...]:
    """Group a file's parts into extents, in the order of the file.

    Args:
        header: of the file.
        parts: of the file, from `parts_of_weights`.
        wanted: by tensor name; parts without a wanted tensor are left out.
        extent_bytes: size that an extent exceeds only if a single tensor does.
    """
    result: list[Extent] = []
    group: list[Part] = []
    held: list[TensorEntry] = []

    def flush() -> None:
        if group and held:
            ordered = sorted(held, key=lambda tensor: decoder_order(tensor.name))
            result.append(Extent(header.file, tuple(group), tuple(ordered)))
        group.clear()
        held.clear()

    for unit, tensors in _units(header, parts[1:]):  # part 0 is the header
        kept = [
            tensor
            for tensor in tensors
            if tensor.name not in header.ignored and (wanted is None or wanted(tensor.name))
        ]
        if not kept:
            flush()
            continue
        if group and (unit[-1].end - group[0].begin > extent_bytes or _jumps(held[-1].name, kept[0].name)):
            flush()
        group += unit
        held += kept
    flush()
    return tuple(result)


def _units(
    header: SafetensorsHeader, parts: Sequence[Part]
) -> Iterable[tuple[list[Part], list[TensorEntry]]]:
    """The smallest runs of parts that hold whole tensors: one part with several, or several parts with one.

    Tensors without bytes are in no part: there is nothing to read for them.
    """
    tensors = [tensor for tensor in header.tensors if tensor.nbytes]
    following = 0
    unit: list[Part] = []
    inside: list[TensorEntry] = []
    for part in parts:
        unit.append(part)
        while following < len(tensors) and tensors[following].end <= part.end:
            inside.append(tensors[following])
            following += 1
        if following == len(tensors) or tensors[following].begin >= part.end:
            yield unit, inside
            unit, inside = [], []


def _jumps(before: str, after: str) -> bool:
    """Whether two tensors that are adjacent in the file are far apart in the decoder."""
    (kind, layer, _), (next_kind, next_layer, _) = decoder_order(before), decoder_order(after)
    return kind != next_kind or next_layer not in (layer, layer + 1)


def in_decoder_order(found: Iterable[Extent]) -> tuple[Extent, ...]:
    """Extents of all files in the order in which a decoder uses them."""
    return tuple(
        sorted(found, key=lambda extent: (decoder_order(extent.tensors[0].name), extent.file, extent.begin))
    )
