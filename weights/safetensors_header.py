"""The header of a safetensors file, checked completely. Pure: bytes in, values out.

A safetensors file is an unsigned 64-bit little-endian length, that many bytes of JSON, and the tensors'
bytes, which the JSON's `data_offsets` must cover without a gap or an overlap
(https://github.com/huggingface/safetensors#format). A header from a bucket is untrusted input: everything is
checked here before any of it reaches an engine.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from weights.errors import RefusedError
from weights.manifest import SafetensorsHeader, TensorEntry
from weights.strict_json import DuplicateKeyError, no_duplicate_keys

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
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
        content = json.loads(head[8 : 8 + length], object_pairs_hook=no_duplicate_keys)
    except DuplicateKeyError as error:
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
