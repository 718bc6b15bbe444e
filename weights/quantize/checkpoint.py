"""A checkpoint made smaller, tensor by tensor; what is done survives an interruption.

Everything is written into a folder beside the destination, which is renamed when it is whole. A file of
weights gets its name there when it is whole, so that a later run with the same source and scheme goes on
after the last one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from weights.quantize import schemes

INDEX = "model.safetensors.index.json"
STATE = ".quantizing.json"
_COPIED = (".json", ".txt", ".model", ".jinja")
_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
}


@dataclass(frozen=True, slots=True)
class Quantized:
    """What was written: bytes of weights before and after, and files that an earlier run had finished."""

    path: Path
    source_bytes: int
    bytes: int
    resumed_files: int


def quantize_checkpoint(
    source: Path, destination: Path, scheme: str, progress: Callable[[int, int], None]
) -> Quantized:
    """Write `source`, a folder with safetensors, as `destination` in `scheme`.

    Holds one tensor at a time in memory. `progress` gets tensors done and in all.

    Raises:
        ValueError: the source, the destination or the scheme cannot be used.
        OSError: reading or writing failed; the same call goes on after the last whole file.
    """
    destination = check_request(destination, scheme)
    source = source.expanduser().resolve()
    config = _config(source)
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise ValueError(f"SRC = {source}, has no *.safetensors (pickled weights are code and are not read)")
    total, columns = _survey(files)
    group = schemes.group_size_for(columns) if scheme == "w4a16" else 0
    staging = destination.with_name(f".{destination.name}.quantizing")
    staging.mkdir(parents=True, exist_ok=True)
    handle = os.open(staging, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"DST = {destination}, is being written by another process") from None
        _resume_or_clear(staging, _identity(source, files, scheme))
        done = resumed = 0
        for file in files:
            target = staging / file.name
            with safe_open(file, framework="pt") as tensors:
                names = list(tensors.keys())
            if target.exists():
                resumed += 1
                progress(done := done + len(names), total)
                continue
            chunks: dict[str, dict[str, Any]] = {}
            with (staging / f"{file.name}.data").open("wb") as data:
                for name in names:
                    for key, part in _converted(file, name, scheme, group).items():
                        start = data.tell()
                        _write(data, part)
                        chunks[key] = {"dtype": _dtype(key, part), "shape": list(part.shape)}
                        chunks[key]["data_offsets"] = [start, data.tell()]
                    progress(done := done + 1, total)
            _finish(staging / f"{file.name}.data", target, chunks)
        _finish_folder(source, staging, config, scheme, group)
        (staging / STATE).unlink()
        staging.rename(destination)
    finally:
        os.close(handle)
    size = sum(path.stat().st_size for path in destination.glob("*.safetensors"))
    return Quantized(destination, sum(path.stat().st_size for path in files), size, resumed)


def check_request(destination: Path, scheme: str) -> Path:
    """The destination's absolute path; what can be refused before the source is there.

    Raises:
        ValueError: the destination exists, or there is no such scheme.
    """
    if scheme not in schemes.SCHEMES:
        raise ValueError(f"scheme = {scheme}, must be one of {', '.join(schemes.SCHEMES)}")
    destination = destination.expanduser().absolute()
    if destination.exists():
        raise ValueError(f"DST = {destination}, must be absent")
    return destination


def _config(source: Path) -> dict[str, Any]:
    try:
        config = json.loads((source / "config.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"SRC = {source}, must be a folder with a config.json") from None
    except ValueError as error:
        raise ValueError(f"{source / 'config.json'} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{source / 'config.json'} must be an object")  # noqa: TRY004 - a file, not an argument
    if config.get("quantization_config"):
        raise ValueError(f"SRC = {source}, is quantized already; start from the original checkpoint")
    if config.get("model_type") not in schemes.MODEL_TYPES:
        known = ", ".join(schemes.MODEL_TYPES)
        raise ValueError(f"config.json: model_type = {config.get('model_type')}, must be one of {known}")
    return config


def _survey(files: list[Path]) -> tuple[int, list[int]]:
    """Tensors in all, and the columns of every matrix that is quantized; reads headers alone."""
    total, columns = 0, []
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    total += 1
                    if schemes.is_linear(name):
                        columns.append(tensors.get_slice(name).get_shape()[1])
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file: {error}") from None
    if not columns:
        raise ValueError(f"{files[0].parent} has no decoder layers under names that are known")
    return total, columns


def _converted(file: Path, name: str, scheme: str, group: int) -> dict[str, torch.Tensor]:
    """Opens the file anew: the pages of a mapping that stays open would count as memory of this process."""
    with safe_open(file, framework="pt") as tensors:
        return schemes.quantize(name, tensors.get_tensor(name), scheme, group)


def _identity(source: Path, files: list[Path], scheme: str) -> dict[str, Any]:
    stats = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    return {"source": str(source), "scheme": scheme, "files": stats}


def _resume_or_clear(staging: Path, identity: dict[str, Any]) -> None:
    state = staging / STATE
    try:
        same = json.loads(state.read_text()) == identity
    except (FileNotFoundError, ValueError):
        same = False
    if not same:
        for path in staging.iterdir():
            path.unlink()
        state.write_text(json.dumps(identity))
    for pattern in ("*.data", "*.part"):
        for path in staging.glob(pattern):
            path.unlink()


def _dtype(name: str, tensor: torch.Tensor) -> str:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} has dtype {tensor.dtype}, which is not known")
    return _DTYPES[tensor.dtype]


def _write(data: Any, tensor: torch.Tensor) -> None:
    data.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))


def _finish(data: Path, target: Path, chunks: dict[str, dict[str, Any]]) -> None:
    """The header goes in front of the data; the name is given when all of it is on disk."""
    header = json.dumps({"__metadata__": {"format": "pt"}, **chunks}).encode()
    header += b" " * (-len(header) % 8)
    part = target.with_name(f"{target.name}.part")
    with part.open("wb") as out, data.open("rb") as read:
        out.write(struct.pack("<Q", len(header)) + header)
        shutil.copyfileobj(read, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())
    part.rename(target)
    data.unlink()


def _finish_folder(source: Path, staging: Path, config: dict[str, Any], scheme: str, group: int) -> None:
    for path in source.iterdir():
        if path.is_file() and path.suffix in _COPIED and path.name not in ("config.json", INDEX):
            shutil.copyfile(path, staging / path.name)
    quantization = schemes.quantization_config(scheme, group)
    if quantization is None:
        config = config | {"torch_dtype": "bfloat16", "dtype": "bfloat16"}
    else:
        config = config | {"quantization_config": quantization}
    (staging / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weight_map: dict[str, str] = {}
    for file in sorted(staging.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            weight_map |= dict.fromkeys(tensors.keys(), file.name)
    if len(set(weight_map.values())) > 1:
        size = sum(file.stat().st_size for file in staging.glob("*.safetensors"))
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (staging / INDEX).write_text(json.dumps(index, indent=2) + "\n")
