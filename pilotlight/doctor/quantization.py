"""How a checkpoint is quantized, as config.json says, and what vLLM asks of options and device (pure).

Names, data types and compute capabilities are those of vLLM 0.32
(`vllm/model_executor/layers/quantization`, `get_min_capability` and `get_supported_act_dtypes` there).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

COMPRESSED: Final = "compressed-tensors"
_FAMILIES: Final = {
    "awq": {"awq", "auto_awq", "awq_marlin"},
    "gptq": {"gptq", "auto_gptq", "gptq_marlin"},
    "mxfp4": {"mxfp4", "gpt_oss_mxfp4"},
    "modelopt": {"modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"},
}
"""vLLM's names of one format; the first is that of checkpoints."""
_ANY: Final = frozenset({"humming", "inc", "moe_wna16"})
"""Methods that take over checkpoints of several formats."""
_PREQUANTIZED: Final = frozenset({COMPRESSED, "awq", "gptq", "modelopt", "mxfp4", "fbgemm_fp8", "quark"})
"""Methods that load a checkpoint and quantize none."""
_SIXTEEN_BITS: Final = frozenset({"awq", "gptq", "fp8", "fbgemm_fp8"})
"""Methods that compute in float16 or bfloat16 alone."""
_LEAST: Final = {
    "awq": 7.5,
    "gptq": 6.0,
    "fp8": 7.5,
    "fbgemm_fp8": 8.0,
    "modelopt": 7.5,
    "mxfp4": 8.0,
}
_FP8_UNITS: Final = 8.9
"""Compute capability from which a GPU multiplies in fp8; below, vLLM computes in 16 bits."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a checkpoint is quantized.

    Attributes:
        method: the format's name: compressed-tensors, awq, gptq, fp8, ...
        bits: of a weight; None where config.json does not tell.
        kind: int or float.
        activations: bits of an activation; None: they are not quantized.
    """

    method: str
    bits: int | None = None
    kind: str = "int"
    activations: int | None = None

    @property
    def text(self) -> str:
        """Such as `compressed-tensors w8a8 int`."""
        if self.bits is None:
            return self.method
        return f"{self.method} w{self.bits}a{self.activations or 16} {self.kind}"

    @property
    def least_capability(self) -> float | None:
        """The compute capability below which vLLM refuses it; None where that is not known."""
        return 7.5 if self.method == COMPRESSED and self.bits is not None else _LEAST.get(self.method)

    @property
    def full_capability(self) -> float | None:
        """The compute capability below which it saves memory but no time; None: none is known."""
        in_fp8 = self.bits == 8 and self.kind == "float" and self.activations == 8
        return _FP8_UNITS if in_fp8 else None


def scheme_of(config: Mapping[str, Any]) -> Scheme | None:
    """The scheme in a config.json; None for a checkpoint that is not quantized."""
    inner = config.get("text_config")
    places = (config, inner if isinstance(inner, Mapping) else {})
    values = [place.get(key) for key in ("quantization_config", "compression_config") for place in places]
    found = next((value for value in values if isinstance(value, Mapping) and value), None)
    if found is None:
        return None
    method = family(str(found.get("quant_method") or "unknown"))
    if method == COMPRESSED:
        return _compressed(found)
    if method in {"fp8", "fbgemm_fp8"}:
        return Scheme(method, 8, "float", 8)
    bits = found.get("bits", found.get("w_bit"))
    return Scheme(method, bits if isinstance(bits, int) and not isinstance(bits, bool) else None)


def online(method: str) -> Scheme | None:
    """The scheme in which vLLM quantizes a checkpoint while it loads; None for other methods."""
    if method == "fp8" or method.startswith("fp8_"):
        return Scheme("fp8", 8, "float", 8)
    if method.startswith("int8_"):
        return Scheme(method, 8, "int")
    return None


def family(name: str) -> str:
    """The format that a name of vLLM's stands for."""
    plain = name.strip().lower()
    dashed = plain.replace("_", "-")
    if dashed == COMPRESSED:
        return COMPRESSED
    plain = dashed.replace("-", "_")
    return next((known for known, names in _FAMILIES.items() if plain in names), plain)


def takes_any(method: str) -> bool:
    """Whether a method loads checkpoints of several formats."""
    return method in _ANY


def only_loads(method: str) -> bool:
    """Whether a method needs a checkpoint that is quantized already."""
    return method in _PREQUANTIZED


def needs_sixteen_bits(method: str) -> bool:
    """Whether a method computes in float16 or bfloat16 alone."""
    return method in _SIXTEEN_BITS


def _compressed(found: Mapping[str, Any]) -> Scheme:
    groups = found.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    group = group if isinstance(group, Mapping) else {}
    weights, inputs = group.get("weights"), group.get("input_activations")
    weights = weights if isinstance(weights, Mapping) else {}
    inputs = inputs if isinstance(inputs, Mapping) else {}
    return Scheme(COMPRESSED, _bits(weights), str(weights.get("type") or "int"), _bits(inputs))


def _bits(values: Mapping[str, Any]) -> int | None:
    bits = values.get("num_bits")
    return bits if isinstance(bits, int) and not isinstance(bits, bool) else None


def describe(config: Mapping[str, Any]) -> str:
    """The scheme in words, else the data type of the weights."""
    scheme = scheme_of(config)
    if scheme is not None:
        return scheme.text
    inner = config.get("text_config")
    for values in (config, inner if isinstance(inner, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(values.get(key), str):
                return str(values[key])
    return "unknown"
