"""PyTorch tensors over bytes, without a copy."""

from __future__ import annotations

import warnings

import torch

from weights.manifest import TensorEntry

_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip


def as_torch(entry: TensorEntry, data: memoryview) -> torch.Tensor:
    """The tensor over `data`, which it keeps alive.

    Raises:
        ValueError: PyTorch has no such data type (those of less than a byte).
    """
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise ValueError(f"tensor {entry.name!r}: dtype = {entry.dtype}, must be one of {', '.join(_DTYPES)}")
    if not entry.nbytes:
        return torch.empty(entry.shape, dtype=dtype)
    with warnings.catch_warnings():
        # PyTorch warns of memory that is not writable; a mapped file is private memory all the same.
        warnings.simplefilter("ignore", UserWarning)
        tensor: torch.Tensor = torch.frombuffer(data, dtype=dtype).reshape(entry.shape)
    return tensor
