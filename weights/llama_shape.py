"""The dimensions of a Llama decoder of a given size. Pure."""

from __future__ import annotations

import dataclasses
import math

VOCABULARY = 1024
HEAD_SIZE = 64
"""The smallest head size that vLLM's attention on CPUs supports."""


@dataclasses.dataclass(frozen=True)
class LlamaShape:
    """The dimensions of a Llama decoder."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes in the order in which the decoder uses them."""
        kv = self.kv_heads * HEAD_SIZE
        layer = {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (self.heads * HEAD_SIZE, self.hidden),
            "self_attn.k_proj.weight": (kv, self.hidden),
            "self_attn.v_proj.weight": (kv, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, self.heads * HEAD_SIZE),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_proj.weight": (self.intermediate, self.hidden),
            "mlp.up_proj.weight": (self.intermediate, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.intermediate),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, self.hidden)}
        for index in range(self.layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        return shapes | {"model.norm.weight": (self.hidden,), "lm_head.weight": (VOCABULARY, self.hidden)}

    @property
    def parameters(self) -> int:
        """How many weights the decoder has."""
        return sum(math.prod(shape) for shape in self.tensors().values())


DEFAULT_SHAPE = LlamaShape(hidden=256, intermediate=768, layers=4, heads=4, kv_heads=2)
_SCALES = (
    # (up to this many bytes, dimensions); the last one takes everything larger.
    (4 << 20, LlamaShape(hidden=64, intermediate=192, layers=1, heads=1, kv_heads=1)),
    (64 << 20, DEFAULT_SHAPE),
    (1 << 30, LlamaShape(hidden=1024, intermediate=2816, layers=1, heads=16, kv_heads=4)),
    (8 << 30, LlamaShape(hidden=2048, intermediate=5632, layers=1, heads=32, kv_heads=8)),
    (math.inf, LlamaShape(hidden=4096, intermediate=14336, layers=1, heads=64, kv_heads=16)),
)


def shape_for(size: int | None) -> LlamaShape:
    """Dimensions whose bfloat16 weights take about `size` bytes (within half a layer).

    Raises:
        ValueError: `size` is smaller than the smallest decoder there is.
    """
    if size is None:
        return DEFAULT_SHAPE
    smallest = 2 * _SCALES[0][1].parameters
    if size < smallest:
        raise ValueError(f"size = {size}, must be at least {smallest} bytes (a decoder of one layer)")
    shape = next(shape for limit, shape in _SCALES if size <= limit)
    without = dataclasses.replace(shape, layers=0).parameters
    per_layer = dataclasses.replace(shape, layers=1).parameters - without
    return dataclasses.replace(shape, layers=max(1, round((size / 2 - without) / per_layer)))
