"""A small Llama made on this machine: random weights, real files, a real tokenizer.

The demo, the tests and the benchmarks need a model that every loader and engine accepts, of any size, on a
machine that cannot reach a model hub.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tokenizers

from weights.llama_shape import HEAD_SIZE, VOCABULARY, LlamaShape, shape_for
from weights.random_weights import write_weights

MAX_POSITIONS = 8192
SHARD_BYTES = 1 << 30

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, BEGIN, END, *ROLES)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_PLAIN = re.compile(r"[\n -~]+")


@dataclasses.dataclass(frozen=True)
class MadeModel:
    """What was written, and where."""

    path: Path
    name: str
    parameters: int
    weight_bytes: int
    shape: LlamaShape
    files: tuple[str, ...]


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
        files = write_weights(scratch, shape, seed, _suppressed(tokenizer), shard_bytes)
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


def _configuration(
    shape: LlamaShape, tokenizer: tokenizers.Tokenizer, name: str
) -> dict[str, dict[str, Any]]:
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
