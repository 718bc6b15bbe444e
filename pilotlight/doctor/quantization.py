"""How the weights of a checkpoint are quantized, as its config.json says (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a checkpoint is quantized.

    Attributes:
        method: `quant_method`, vLLM's name of it: compressed-tensors, awq, gptq, fp8, ...
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


def scheme_of(config: Mapping[str, Any]) -> Scheme | None:
    """The scheme in a config.json; None for a checkpoint that is not quantized."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping) and isinstance(inner := config.get("text_config"), Mapping):
        found = inner.get("quantization_config")
    if not isinstance(found, Mapping) or not found:
        return None
    method = str(found.get("quant_method") or "").lower().replace("_", "-") or "unknown"
    if method == "compressed-tensors":
        return _compressed(method, found)
    if method in {"fp8", "fbgemm-fp8"}:
        return Scheme(method, 8, "float", 8)
    bits = found.get("bits", found.get("w_bit", found.get("num_bits")))
    return Scheme(method, bits if isinstance(bits, int) and not isinstance(bits, bool) else None)


def _compressed(method: str, found: Mapping[str, Any]) -> Scheme:
    groups = found.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    group = group if isinstance(group, Mapping) else {}
    weights, inputs = group.get("weights"), group.get("input_activations")
    weights = weights if isinstance(weights, Mapping) else {}
    inputs = inputs if isinstance(inputs, Mapping) else {}
    return Scheme(method, _bits(weights), str(weights.get("type") or "int"), _bits(inputs))


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
