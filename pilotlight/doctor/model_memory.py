"""Whether a model fits into GPU memory: an estimate with its sum shown (pure).

Weights are parameters times bytes; the KV cache of one sequence of `max-model-len` tokens is what vLLM needs
at least to start (vllm/v1/core/kv_cache_utils.py). Activations and CUDA graphs come on top and are not known
ahead, so a model that fits here may still not start, but one that does not fit will not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GPU_MEMORY_UTILIZATION = 0.92
"""vLLM's default of --gpu-memory-utilization."""
_DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
_STORED_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
}  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_GB = 1e9


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model without loading it.

    Attributes:
        stored_bytes: of its weights.
        dtypes: parameters by data type, as safetensors calls it.
        config: its config.json.
    """

    stored_bytes: int
    dtypes: Mapping[str, int]
    config: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """Of all data types."""
        return sum(self.dtypes.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model needs on the devices of one replica, in bytes.

    Attributes:
        weights: of the weights as they are loaded.
        kv_per_token: of the KV cache for one token; None where config.json does not tell.
        tokens: of one sequence at most; None where nothing tells.
        budget: that vLLM may use on all devices together.
        text: the sum in words.
    """

    weights: int
    kv_per_token: int | None
    tokens: int | None
    budget: int
    text: str

    @property
    def needed(self) -> int:
        """Weights and the KV cache of one sequence."""
        return self.weights + (self.kv_per_token or 0) * (self.tokens or 0)

    @property
    def sequences(self) -> int | None:
        """Sequences of `tokens` tokens whose KV cache fits beside the weights; None where that is unknown."""
        size = (self.kv_per_token or 0) * (self.tokens or 0)
        return (self.budget - self.weights) // size if size else None

    @property
    def fits(self) -> bool:
        """Whether it can be loaded at all."""
        return self.needed <= self.budget


def estimate(model: ModelFacts, args: Mapping[str, Any], *, device_bytes: int, workers: int) -> Estimate:
    """What a model needs, against what there is.

    Args:
        model: what is known of it.
        args: vLLM's options.
        device_bytes: memory of one device.
        workers: devices that it is spread over.
    """
    loaded = _loaded_bytes(model, args)
    config = model.config.get("text_config") or model.config
    per_token = _kv_bytes_per_token(config, args)
    tokens = _tokens(config, args)
    share = args.get("gpu-memory-utilization", GPU_MEMORY_UTILIZATION)
    share = float(share) if isinstance(share, int | float) and not isinstance(share, bool) else 1.0
    budget = int(device_bytes * share * workers)
    words = [f"weights {_gb(loaded)} ({model.parameters / _GB:.2f}e9 parameters)"]
    needed = loaded
    if per_token is not None and tokens is not None:
        needed += per_token * tokens
        words.append(
            f"KV cache of one sequence {_gb(per_token * tokens)} ({tokens} tokens x {per_token} bytes)"
        )
    text = (
        f"{' + '.join(words)} = {_gb(needed)} of {_gb(budget)} ({workers} x {share:g} x {_gb(device_bytes)})"
    )
    return Estimate(loaded, per_token, tokens, budget, text)


def _gb(count: float) -> str:
    return f"{count / _GB:.1f} GB" if count >= _GB / 10 else f"{count / 1e6:.1f} MB"


def _loaded_bytes(model: ModelFacts, args: Mapping[str, Any]) -> int:
    """Bytes as loaded: vLLM loads float32 as 16 bits, unless its option dtype says otherwise."""
    said = _DTYPE_BYTES.get(str(args.get("dtype", "auto")))
    total = 0
    for dtype, count in model.dtypes.items():
        stored = _STORED_BYTES.get(dtype, 1)
        total += count * ((said or min(stored, 2)) if dtype in _FLOATS else stored)
    return total


def _kv_bytes_per_token(config: Mapping[str, Any], args: Mapping[str, Any]) -> int | None:
    try:
        layers = int(config["num_hidden_layers"])
        said = str(args.get("kv-cache-dtype", "auto"))
        size = 1 if said.startswith(("fp8", "int8")) else _DTYPE_BYTES.get(str(args.get("dtype", "auto")), 2)
        if config.get("kv_lora_rank"):
            # Multi-head latent attention keeps one compressed vector instead of keys and values.
            return layers * (int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"])) * size
        heads = int(config["num_attention_heads"])
        width = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        return 2 * layers * int(config.get("num_key_value_heads") or heads) * width * size
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _tokens(config: Mapping[str, Any], args: Mapping[str, Any]) -> int | None:
    for value in (args.get("max-model-len"), config.get("max_position_embeddings")):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
