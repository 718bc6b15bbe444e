"""The folders that are compared: what each holds, and whether they can be compared at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilotlight.comparison.economy import workers
from pilotlight.comparison.errors import CompareInputError
from pilotlight.comparison.values import Checkpoint
from pilotlight.doctor.gather_model import read_model
from pilotlight.doctor.model_memory import estimate
from pilotlight.doctor.quantization import describe
from weights.errors import WeightsError

_RUNTIME_BYTES = 2 << 30
"""Of a replica's Python, vLLM and its libraries, on processors; an assumption for the check ahead."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_LEFT_OUT = ("truncation", "padding", "version")
"""Members of tokenizer.json that a user of it sets anew, and its format's version."""
_LARGEST = 256 << 20


def read_checkpoints(paths: Sequence[Path]) -> list[Checkpoint]:
    """What is known of each folder without loading it.

    Raises:
        CompareInputError: a folder is missing, is no model, or has another tokenizer than the first.
    """
    if len(paths) < 2:
        raise CompareInputError("must have two models at least: the reference first")
    resolved = [path.expanduser().absolute() for path in paths]
    again = [path for path, count in Counter(resolved).items() if count > 1]
    if again:
        raise CompareInputError(f"{again[0]}: is named twice; the reference is measured twice in any case")
    found = [_read(path, name) for path, name in zip(resolved, _names(resolved), strict=True)]
    for other in found[1:]:
        _same_tokens(found[0], other)
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many folders above as tells them apart."""
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
        depth += 1


def _read(path: Path, name: str) -> Checkpoint:
    if "://" in str(path):
        raise CompareInputError(f"{path}: must be a folder (`pilotlight weights pull` brings a model here)")
    if not path.is_dir():
        raise CompareInputError(f"{path}: must be a folder with config.json and safetensors")
    try:
        facts = read_model(str(path))
    except (WeightsError, OSError, ValueError) as error:
        raise CompareInputError(f"{path}: {error}") from None
    if not facts.config:
        raise CompareInputError(f"{path}: has no config.json")
    return Checkpoint(name, path, facts, describe(facts.config))


def _same_tokens(reference: Checkpoint, other: Checkpoint) -> None:
    """Probabilities can only be compared where both models speak of the same tokens."""
    why = f"{other.path}: cannot be compared with {reference.path}:"
    sizes = [_vocabulary(one) for one in (reference, other)]
    if sizes[0] != sizes[1]:
        raise CompareInputError(f"{why} a vocabulary of {sizes[1]:,} tokens, not {sizes[0]:,}")
    for file in _TOKENIZERS:
        one, two = _tokenizer(reference.path / file), _tokenizer(other.path / file)
        if one is None and two is None:
            continue
        if one is None or two is None:
            missing = reference if one is None else other
            raise CompareInputError(f"{why} {file} is missing in {missing.path}")
        if one != two:
            raise CompareInputError(f"{why} another tokenizer ({_difference(one, two, file)})")
        return
    raise CompareInputError(f"{reference.path}: has no tokenizer ({', '.join(_TOKENIZERS)})")


def _vocabulary(checkpoint: Checkpoint) -> int:
    size = _text(checkpoint).get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise CompareInputError(f"{checkpoint.path / 'config.json'}: vocab_size = {size!r}, must be a number")
    return size


def _text(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.facts.config
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else dict(config)


def vocabulary(checkpoint: Checkpoint) -> int:
    """Tokens that the model knows."""
    return _vocabulary(checkpoint)


def longest(checkpoint: Checkpoint) -> int | None:
    """Tokens that a sequence may have; None where config.json does not tell."""
    value = _text(checkpoint).get("max_position_embeddings")
    return value if isinstance(value, int) and value > 0 else None


def _tokenizer(file: Path) -> Any:
    try:
        if file.stat().st_size > _LARGEST:
            raise CompareInputError(f"{file}: must have at most {_LARGEST:,} bytes")
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CompareInputError(f"{file}: {error.strerror}") from None
    if file.suffix != ".json":
        return content
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CompareInputError(f"{file}: is not JSON ({error})") from None
    return (
        {key: item for key, item in value.items() if key not in _LEFT_OUT}
        if isinstance(value, dict)
        else value
    )


def _difference(one: Any, two: Any, file: str) -> str:
    if not isinstance(one, dict) or not isinstance(two, dict):
        return f"{file} differs"
    keys = [key for key in dict.fromkeys((*one, *two)) if one.get(key) != two.get(key)]
    return f"{file} differs in {', '.join(keys[:3])}"


def check_memory(
    checkpoint: Checkpoint, args: dict[str, Any], *, available: int, gpu_bytes: int | None
) -> None:
    """Refuse a model that cannot be loaded here, before anything starts.

    Args:
        checkpoint: to be loaded.
        args: the engine's options.
        available: bytes of this machine's memory.
        gpu_bytes: memory of one GPU, where the model goes; None: it stays in this machine's memory.

    Raises:
        CompareInputError: with the sum.
    """
    if gpu_bytes is not None:
        found = estimate(checkpoint.facts, args, device_bytes=gpu_bytes, workers=workers(args))
        if not found.fits:
            raise CompareInputError(f"{checkpoint.path}: does not fit the GPU: {found.text}")
        return
    found = estimate(checkpoint.facts, args, device_bytes=available, workers=1)
    needed = found.weights + _RUNTIME_BYTES
    if needed > available:
        raise CompareInputError(
            f"{checkpoint.path}: weights {found.weights / 1e9:.1f} GB and {_RUNTIME_BYTES / 1e9:.1f} GB for "
            f"the engine do not fit into {available / 1e9:.1f} GB of free memory"
        )
