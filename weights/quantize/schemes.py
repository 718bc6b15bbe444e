"""How one tensor of each scheme is rounded, and what config.json says of it.

The layouts are those of the compressed-tensors package: `int-quantized`, `float-quantized` and
`pack-quantized`. Weights are rounded to nearest. Activations of 8-bit schemes are scaled per token while the
model runs, so no scheme here needs calibration prompts.
"""

from __future__ import annotations

import re
from typing import Any

import torch

SCHEMES = ("w8a8-int8", "w4a16", "fp8", "bf16")
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
GROUP_SIZES = (128, 64, 32)
FP8_MAX = 448.0
_BLOCK = 1 << 20
"""Values that are rounded at a time."""

_LINEAR = re.compile(r"\.layers\.\d+\..*\.(q|k|v|o|gate|up|down)_proj\.weight$")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def is_linear(name: str) -> bool:
    """Whether a tensor is a decoder layer's matrix: embeddings, norms and the head stay as they are."""
    return _LINEAR.search(name) is not None


def group_size_for(columns: list[int]) -> int:
    """The largest group that divides every matrix's columns.

    Raises:
        ValueError: none does.
    """
    for size in GROUP_SIZES:
        if all(count % size == 0 for count in columns):
            return size
    raise ValueError(
        f"scheme = w4a16, needs columns that {GROUP_SIZES[-1]} divides, has {sorted(set(columns))}"
    )


def quantize(name: str, tensor: torch.Tensor, scheme: str, group_size: int) -> dict[str, torch.Tensor]:
    """What stands in the new checkpoint for the tensor `name`, [rows, columns] if it is a matrix.

    Raises:
        ValueError: the tensor has values that are not finite.
    """
    if scheme == "bf16":
        return {name: tensor.to(torch.bfloat16) if tensor.dtype in _FLOATS else tensor}
    if not is_linear(name):
        return {name: tensor}
    # Scales are of rows or parts of rows: blocks of rows give the same bytes, and few values are in 32 bits.
    rows, columns = tensor.shape
    step = max(1, _BLOCK // columns)
    blocks = [_rows(name, tensor[at : at + step], scheme, group_size) for at in range(0, rows, step)]
    found = {key: torch.cat([block[key] for block in blocks]) for key in blocks[0]}
    if scheme == "w4a16":
        found[f"{name}_shape"] = torch.tensor([rows, columns], dtype=torch.int64)
    return found


def _rows(name: str, tensor: torch.Tensor, scheme: str, group_size: int) -> dict[str, torch.Tensor]:
    """Some rows of a matrix, [n, columns]."""
    weight = tensor.float()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"{name} has values that are not finite: it cannot be quantized")
    if scheme == "w4a16":
        return _packed(name, weight, tensor.dtype, group_size)
    limit = FP8_MAX if scheme == "fp8" else 127.0
    scale = (weight.abs().amax(dim=1, keepdim=True) / limit).clamp(min=1e-12)
    scaled = (weight / scale).clamp_(-limit, limit)
    small = scaled.to(torch.float8_e4m3fn) if scheme == "fp8" else scaled.round_().to(torch.int8)
    return {name: small, f"{name}_scale": scale}


def _packed(name: str, weight: torch.Tensor, dtype: torch.dtype, group: int) -> dict[str, torch.Tensor]:
    """Eight values of 4 bits in an int32, the first in the lowest bits, each with 8 added."""
    rows, columns = weight.shape
    groups = weight.view(rows, columns // group, group)
    scale = (groups.abs().amax(dim=2, keepdim=True) / 7.5).clamp(min=1e-7).to(dtype)
    values = (groups / scale.float()).round().clamp(-8, 7).view(rows, columns).to(torch.int32) + 8
    packed = torch.zeros(rows, columns // 8, dtype=torch.int32)
    for place in range(8):
        packed |= values[:, place::8] << (4 * place)
    return {f"{name}_packed": packed, f"{name}_scale": scale.squeeze(2)}


def quantization_config(scheme: str, group_size: int) -> dict[str, Any] | None:
    """`quantization_config` of config.json; None for bf16, which is not quantized."""
    if scheme == "bf16":
        return None
    kind = "float" if scheme == "fp8" else "int"
    bits = 4 if scheme == "w4a16" else 8
    common = {"num_bits": bits, "type": kind, "symmetric": True}
    weights: dict[str, Any] = {**common, "strategy": "channel", "dynamic": False}
    inputs: dict[str, Any] | None = {**common, "strategy": "token", "dynamic": True}
    layout = f"{kind}-quantized"
    if scheme == "w4a16":
        weights |= {"strategy": "group", "group_size": group_size}
        inputs, layout = None, "pack-quantized"
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
