"""vLLM's options as the agent file gives them: conversion to a command line, and validation.

Keys are those of vLLM's command line without the leading dashes: `{"max-model-len": 1024}`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from functions.engines.vllm.option_schema import schema
from functions.settings import process_environment

OWNED = frozenset(
    {
        "api-server-count",
        "config",
        "headless",
        "host",
        "model",
        "port",
        "root-path",
        "served-model-name",
        "ssl-ca-certs",
        "ssl-certfile",
        "ssl-keyfile",
        "uds",
    }
)
"""Options that the replica sets."""


def to_argv(args: Mapping[str, Any]) -> list[str]:
    """The command line for these options.

    `true` becomes the bare option, `false` its `--no-` form, `null` nothing. Lists and objects become JSON;
    `vllm_internals.command_line.parse` makes several values of a list where the option takes several.
    """
    argv: list[str] = []
    for key, value in args.items():
        option = f"--{key.replace('_', '-')}"
        if value is None:
            continue
        if value is True:
            argv.append(option)
        elif value is False:
            argv.append(f"--no-{option[2:]}")
        else:
            # One argument, so that a value that begins with a dash stays a value.
            argv.append(f"{option}={_text(value)}")
    return argv


def command_line(args: Mapping[str, Any], *, model: Path, name: str) -> tuple[str, ...]:
    """The command line of vLLM for a model folder that is served under a name, without the socket.

    Raises:
        ValueError: an option that is not the user's to set.
    """
    if problems := reserved_options(args):
        raise ValueError("; ".join(problems))
    return (
        "--model",
        str(model),
        "--served-model-name",
        name,
        "--disable-uvicorn-access-log",
        *to_argv(args),
    )


def defaults(args: Mapping[str, Any], model: Path, device: str) -> dict[str, Any]:
    """Options that the replica adds unless the user sets them.

    On CPUs vLLM would take most of the machine's memory for its KV cache, and touch all of it while starting.
    Instead it gets room for `max-num-seqs` full sequences (64 by default), at most 4 GiB.
    """
    given = {key.replace("_", "-") for key in args}
    if (
        device != "cpu"
        or "kv-cache-memory-bytes" in given
        or process_environment().get("VLLM_CPU_KVCACHE_SPACE")
    ):
        return {}
    per_token = kv_bytes_per_token(model)
    if per_token is None:
        return {"kv-cache-memory-bytes": 1 << 30}
    length = args.get("max-model-len", args.get("max_model_len"))
    sequences = args.get("max-num-seqs", args.get("max_num_seqs"))
    wanted = (
        per_token
        * (length if isinstance(length, int) else 4096)
        * (sequences if isinstance(sequences, int) else 64)
    )
    return {"kv-cache-memory-bytes": max(64 << 20, min(wanted, 4 << 30))}


def kv_bytes_per_token(model: Path) -> int | None:
    """Bytes of one token in the KV cache of a decoder with 16-bit keys and values; None if unknown."""
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
        size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
        return 2 * 2 * int(config["num_hidden_layers"]) * heads * size
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reserved(key: str) -> str | None:
    """Why an option is not the user's to set, or None."""
    plain = key.replace("_", "-")
    if plain.startswith("-"):
        return "must be written without leading dashes"
    if plain.removeprefix("no-") in OWNED:
        return "is set by the replica; leave it out"
    return None


def reserved_options(args: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that are not the user's to set, one line each."""
    return tuple(f"{key}: {message}" for key in args if (message := reserved(key)) is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class InvalidOption:
    """What is wrong with one option; `str()` is a line for the user."""

    option: str
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.option} = {json.dumps(self.value, default=str)}: {self.message}"


def validate(
    args: Mapping[str, Any],
    *,
    container_concurrency: int | None = None,
    cache_dir: Path | None = None,
    asking: Callable[[], None] = lambda: None,
) -> tuple[InvalidOption, ...]:
    """Check options against what vLLM says of them; only what is certainly wrong is reported.

    vLLM is not imported in this process.

    Args:
        args: `engine.args` of the agent file.
        container_concurrency: Knative's limit of concurrent requests per replica; 0 or None for no limit.
        cache_dir: where vLLM's description of its options is kept; without it each call asks vLLM (seconds).
        asking: called before vLLM is asked.

    Raises:
        ValidationUnavailableError: vLLM is not installed here, or cannot be started.
    """
    problems = []
    sequences = args.get("max-num-seqs", args.get("max_num_seqs"))
    if isinstance(sequences, int) and container_concurrency and container_concurrency > sequences:
        problems.append(
            InvalidOption(
                "max-num-seqs",
                sequences,
                f"is below containerConcurrency = {container_concurrency}, so that "
                f"{container_concurrency - sequences} admitted requests would wait inside the engine; "
                f"must be at least {container_concurrency}, or lower containerConcurrency",
            )
        )
    known = schema(cache_dir, asking=asking)
    for key, value in args.items():
        message = reserved(key) or known.objection(key, value)
        if message is not None:
            problems.append(InvalidOption(key, value, message))
    return tuple(problems)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)
