"""A small Llama made on this machine: random weights, real files, a real tokenizer.

The demo, the tests and the benchmarks need a model that every loader and engine accepts, of any size, on a
machine that cannot reach a model hub. Weights are random but not arbitrary: a constant direction in the
residual stream keeps special tokens and tokens that are not plain text improbable, so that generations run
to their limit and print as words.

Nothing here needs torch or transformers: the safetensors format is a length, a JSON header and bytes
(https://github.com/huggingface/safetensors#format), and bfloat16 is the upper half of a float32.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

VOCABULARY = 1024
HEAD_SIZE = 64
"""The smallest head size that vLLM's attention on CPUs supports."""
MAX_POSITIONS = 8192
SHARD_BYTES = 1 << 30

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, BEGIN, END, *ROLES)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_CHUNK = 4 << 20
"""Values drawn at a time: bounds memory and keeps the draws in the processor's cache."""
_STEERING = 0.5
"""Size of the constant first coordinate of the residual stream."""
_PLAIN = re.compile(r"[\n -~]+")


@dataclasses.dataclass(frozen=True)
class Shape:
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


DEFAULT_SHAPE = Shape(hidden=256, intermediate=768, layers=4, heads=4, kv_heads=2)
_SCALES = (
    # (up to this many bytes, dimensions); the last one takes everything larger.
    (4 << 20, Shape(hidden=64, intermediate=192, layers=1, heads=1, kv_heads=1)),
    (64 << 20, DEFAULT_SHAPE),
    (1 << 30, Shape(hidden=1024, intermediate=2816, layers=1, heads=16, kv_heads=4)),
    (8 << 30, Shape(hidden=2048, intermediate=5632, layers=1, heads=32, kv_heads=8)),
    (math.inf, Shape(hidden=4096, intermediate=14336, layers=1, heads=64, kv_heads=16)),
)


@dataclasses.dataclass(frozen=True)
class MadeModel:
    """What was written, and where."""

    path: Path
    name: str
    parameters: int
    weight_bytes: int
    shape: Shape
    files: tuple[str, ...]


def shape_for(size: int | None) -> Shape:
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


def make_model(
    directory: Path,
    *,
    size: int | None = None,
    seed: int = 0,
    name: str = "pilotlight-tiny",
    shard_bytes: int = SHARD_BYTES,
) -> MadeModel:
    """Write a Llama checkpoint with tokenizer into `directory`, which must be absent or empty.

    Args:
        directory: appears complete or not at all (the files are written beside it and renamed).
        size: bytes of weights; without it a decoder of 3.7 million parameters.
        seed: the same seed and size give the same bytes.
        name: recorded in the configuration.
        shard_bytes: weights above this go into several files with an index, as large models have.

    Raises:
        FileExistsError: `directory` holds something already.
        ValueError: `size` or `shard_bytes` is too small.
    """
    directory = directory.expanduser().absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"directory = {directory}, must be absent or empty")
    shape = shape_for(size)
    if shard_bytes < 1 << 16:
        raise ValueError(f"shard_bytes = {shard_bytes}, must be at least {1 << 16}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        tokenizer = _train_tokenizer()
        tokenizer.save(str(scratch / "tokenizer.json"))
        for file, content in _configuration(shape, tokenizer, name).items():
            (scratch / file).write_text(json.dumps(content, indent=2) + "\n")
        files = _write_weights(scratch, shape, seed, _suppressed(tokenizer), shard_bytes)
        scratch.chmod(0o755)
        scratch.rename(directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return MadeModel(directory, name, shape.parameters, 2 * shape.parameters, shape, files)


def _train_tokenizer() -> tokenizers.Tokenizer:
    """Byte-level BPE over the text of Python's own help pages: English that every machine has."""
    text: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text[topic] for topic in sorted(text)], trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise RuntimeError(f"the tokenizer has {tokenizer.get_vocab_size()} words, must have {VOCABULARY}")
    return tokenizer


def _suppressed(tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Tokens that should hardly ever be generated: special ones and those that are not plain text."""
    special = {tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    return [
        token
        for token in range(VOCABULARY)
        if token in special or not _PLAIN.fullmatch(tokenizer.decode([token], skip_special_tokens=False))
    ]


def _configuration(shape: Shape, tokenizer: tokenizers.Tokenizer, name: str) -> dict[str, dict[str, Any]]:
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    stops = {"bos_token_id": ids[BEGIN], "eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    return {
        "config.json": {
            "_name_or_path": name,
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": HEAD_SIZE,
            "hidden_act": "silu",
            "max_position_embeddings": MAX_POSITIONS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": VOCABULARY,
            **stops,
        },
        "generation_config.json": {**stops, "do_sample": True, "temperature": 1.0},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": END,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_POSITIONS,
            "added_tokens_decoder": {
                str(ids[token]): {
                    "content": token,
                    "special": True,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                }
                for token in SPECIAL_TOKENS
            },
            "chat_template": CHAT_TEMPLATE,
        },
    }


def _write_weights(
    directory: Path, shape: Shape, seed: int, suppressed: list[int], shard_bytes: int
) -> tuple[str, ...]:
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
    path: Path, tensors: dict[str, tuple[int, ...]], shape: Shape, seed: int, suppressed: list[int]
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
    name: str, dimensions: tuple[int, ...], shape: Shape, seed: int, suppressed: list[int]
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
