"""Random weights for a small Llama, written as safetensors files.

Weights are random but not arbitrary: a constant direction in the residual stream keeps special tokens and
tokens that are not plain text improbable, so that generations run to their limit and print as words.

Nothing here needs torch: a safetensors file is a length, a JSON header and bytes
(https://github.com/huggingface/safetensors#format), and bfloat16 is the upper half of a float32.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weights.llama_shape import LlamaShape

_CHUNK = 4 << 20
"""Values drawn at a time: bounds memory and keeps the draws in the processor's cache."""
_STEERING = 0.5
"""The constant first coordinate of the residual stream."""


def write_weights(
    directory: Path, shape: LlamaShape, seed: int, suppressed: list[int], shard_bytes: int
) -> tuple[str, ...]:
    """Write all tensors of a shape into a folder.

    Args:
        directory: exists.
        shape: of the decoder.
        seed: equal seeds give equal bytes.
        suppressed: tokens that should hardly ever be generated.
        shard_bytes: weights above this go into several files with an index.

    Returns:
        The names of the weights files.
    """
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = shard_bytes
    for name, dimensions in shape.tensors().items():
        needed = 2 * math.prod(dimensions)
        if needed > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = dimensions
        room -= needed
    many = len(shards)
    files = [
        "model.safetensors" if many == 1 else f"model-{number:05d}-of-{many:05d}.safetensors"
        for number in range(1, many + 1)
    ]
    for file, shard in zip(files, shards, strict=True):
        _write_safetensors(directory / file, shard, shape, seed, suppressed)
    if many > 1:
        index = {
            "metadata": {"total_size": 2 * shape.parameters},
            "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
        }
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return tuple(files)


def _write_safetensors(
    path: Path, tensors: dict[str, tuple[int, ...]], shape: LlamaShape, seed: int, suppressed: list[int]
) -> None:
    """Write one file tensor by tensor, so that a checkpoint of any size needs little memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    names = sorted(tensors)
    for name in names:
        begin, end = end, end + 2 * math.prod(tensors[name])
        header[name] = {"dtype": "BF16", "shape": list(tensors[name]), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            for chunk in _values(name, tensors[name], shape, seed, suppressed):
                out.write(_bfloat16(chunk).tobytes())


def _values(
    name: str, dimensions: tuple[int, ...], shape: LlamaShape, seed: int, suppressed: list[int]
) -> Iterator[npt.NDArray[np.float32]]:
    """A tensor's rows in chunks. Each tensor has its own stream of random numbers, named by seed and name."""
    if len(dimensions) == 1:
        yield np.ones(dimensions, dtype=np.float32)
        return
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.default_rng([seed, key])
    # Logits spread over about three units, so that the first choice stays the first under rounding.
    deviation = 3 / math.sqrt(shape.hidden) if name == "lm_head.weight" else 0.02
    rows, columns = dimensions
    step = max(1, _CHUNK // columns)
    for first in range(0, rows, step):
        chunk = generator.standard_normal((min(step, rows - first), columns), dtype=np.float32)
        chunk *= np.float32(deviation)
        _steer(chunk, name, first, suppressed)
        yield chunk


def _steer(chunk: npt.NDArray[np.float32], name: str, first: int, suppressed: list[int]) -> None:
    """Keep coordinate 0 of the residual stream constant and let it push the suppressed tokens down."""
    if name == "model.embed_tokens.weight":
        chunk[:, 0] = _STEERING
    elif name.endswith(("o_proj.weight", "down_proj.weight")):
        if first == 0:
            chunk[0] = 0
    elif name == "lm_head.weight":
        chunk[:, 0] = 0
        rows = [token - first for token in suppressed if first <= token < first + len(chunk)]
        chunk[rows] = 0
        chunk[rows, 0] = -16


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )
