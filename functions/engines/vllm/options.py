"""vLLM's options as they stand in the agent file: to a command line, and judged by vLLM's own parser.

Keys are those of vLLM's command line without the dashes in front: `{"max-model-len": 1024}`. Importing vLLM's
parser takes seconds and most of a gigabyte, so it is asked in a process of its own (`python -m
functions.engines.vllm.options`), and its verdict is kept for the same options of the same release.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
"""Options that the replica itself decides."""

_TIMEOUT_SECONDS = 120.0


class ValidationUnavailableError(Exception):
    """vLLM's parser cannot be asked here; the message says why."""


def to_argv(args: Mapping[str, Any]) -> list[str]:
    """Command line of these options.

    `true` is a bare option, `false` its `--no-` form, `null` is left out, a list is several values, an object
    is JSON.
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
        elif isinstance(value, (list, tuple)):
            argv += [option, *(_text(item) for item in value)]
        else:
            # One word, so that a value that begins with a dash stays a value.
            argv.append(f"{option}={_text(value)}")
    return argv


def command_line(args: Mapping[str, Any], *, model: Path, name: str) -> tuple[str, ...]:
    """Command line of vLLM for a model folder served under a name, without the socket.

    Raises:
        ValueError: an option that is not the user's to set.
    """
    if problems := own_rules(args):
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
    Here it gets room for `max-num-seqs` full sequences (64 where that is not set), at most 4 GiB.
    """
    given = {key.replace("_", "-") for key in args}
    if device != "cpu" or "kv-cache-memory-bytes" in given or os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
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


def own_rules(args: Mapping[str, Any]) -> tuple[str, ...]:
    """What can be said of the options without vLLM; one line each."""
    problems = []
    for key in args:
        plain = key.replace("_", "-")
        if plain.startswith("-"):
            problems.append(f"{key}: must be written without dashes in front")
        elif plain.removeprefix("no-") in OWNED:
            problems.append(f"{key}: is set by the replica; leave it out")
    return tuple(problems)


def validate(
    args: Mapping[str, Any], *, container_concurrency: int | None = None, cache_dir: Path | None = None
) -> tuple[str, ...]:
    """What is wrong with these options, one line each; empty for none. vLLM is not imported here.

    Args:
        args: `engine.args` of the agent file.
        container_concurrency: Knative's hard limit of requests in one replica; 0 or None for none.
        cache_dir: where verdicts are kept; without it each call asks anew (seconds).

    Raises:
        ValidationUnavailableError: vLLM is not installed here, or cannot be started.
    """
    problems = [*own_rules(args)]
    sequences = args.get("max-num-seqs", args.get("max_num_seqs"))
    if isinstance(sequences, int) and container_concurrency and container_concurrency > sequences:
        problems.append(
            f"max-num-seqs = {sequences}: is below containerConcurrency = {container_concurrency}, so that "
            f"{container_concurrency - sequences} admitted requests would wait inside the engine; "
            f"must be at least {container_concurrency}, or lower containerConcurrency"
        )
    foreign = {key: value for key, value in args.items() if not own_rules({key: value})}
    return (*problems, *_ask(foreign, cache_dir))


def _ask(args: Mapping[str, Any], cache_dir: Path | None) -> tuple[str, ...]:
    version = installed_version()
    if version is None:
        raise ValidationUnavailableError("vLLM is not installed; install pilotlight[cpu] or pilotlight[gpu]")
    question = json.dumps(args, sort_keys=True)
    digest = hashlib.sha256(f"{version}\n{question}".encode()).hexdigest()[:32]
    kept = None if cache_dir is None else cache_dir / "vllm-options" / f"{digest}.json"
    if kept is not None:
        try:
            return tuple(json.loads(kept.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            pass  # not asked yet
    try:
        answer = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", __name__],
            input=question,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
        last = answer.stdout.strip().rpartition("\n")[2]
        verdict = tuple(str(line) for line in json.loads(last))
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise ValidationUnavailableError(f"vLLM's parser did not answer: {error}") from error
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as scratch:
            json.dump(verdict, scratch)
        Path(scratch.name).replace(kept)
    return verdict


def installed_version() -> str | None:
    """The installed vLLM's release, with its distribution's name; None without one."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _main(question: str) -> Sequence[str]:
    from functions.engines.vllm import ground  # noqa: PLC0415 - only this process pays for vLLM

    ground.quieten()
    args = json.loads(question)
    problems: list[str] = []
    for key, value in args.items():
        # One at a time, so that each gets its own line; vLLM's parser stops at the first.
        try:
            ground.parse(["--model", "any", *to_argv({key: value})])
        except ground.OptionError as error:
            problems.append(f"{key} = {json.dumps(value)}: {error}")
    if not problems:
        try:
            ground.parse(["--model", "any", *to_argv(args)])
        except ground.OptionError as error:
            problems.append(str(error))
    return problems


if __name__ == "__main__":
    print(json.dumps(_main(sys.stdin.read())))  # noqa: T201 - the answer to the process that asked
