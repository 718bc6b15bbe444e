"""Which of a source's files make the model, and why the others are skipped. Pure.

What stands beside weights in the repositories of the field: other formats of the same weights (PyTorch
pickles, GGUF, TensorFlow, Flax, ONNX, OpenVINO, Core ML), Meta's `original/` and Mistral's `consolidated*`
copies, LoRA adapters, what a training run leaves (`training_args.bin`, `optimizer.pt`, `rng_state.pth`,
checkpoints in folders, TensorBoard events), and documentation.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from weights.errors import NotFoundError, RefusedError
from weights.index import check_numbers, check_shards
from weights.manifest import FileEntry, SkippedFile, check_path
from weights.wording import listed

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".th", ".distcp")
"""Formats that run code when they are loaded, or may."""
_OTHER_FORMATS = {
    ".gguf": "GGUF", ".ggml": "GGML", ".h5": "TensorFlow", ".pb": "TensorFlow", ".tflite": "TensorFlow Lite",
    ".keras": "Keras", ".msgpack": "Flax", ".onnx": "ONNX", ".onnx_data": "ONNX", ".ot": "rust-bert",
    ".mlmodel": "Core ML", ".engine": "TensorRT", ".plan": "TensorRT", ".npz": "NumPy", ".npy": "NumPy",
    ".nemo": "NeMo", ".pdparams": "PaddlePaddle", ".tensors": "Tensorizer", ".llamafile": "llamafile",
}  # fmt: skip
_TRAINING = (
    "trainer_state.json", "*_results.json", "events.out.tfevents.*", "zero_to_fp32.py", "latest",
    "training_args.json", "training_args.yaml", "train.log", "training_log.*",
)  # fmt: skip
_TRAINING_STATE = (
    "training_args", "trainer_", "optimizer", "scheduler", "scaler", "rng_state", "random_states", "sampler",
)  # fmt: skip
"""How the pickles begin that a training run leaves and that are not weights."""
_DOCUMENTATION = (
    "*.md", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg", "*.pdf", "*.mp4", "*.ipynb",
    "license*", "licence*", "notice*", "use_policy*",
)  # fmt: skip
_CONFIGURATIONS = ("config.json", "params.json")
"""Files that say that a folder is a model, even without weights."""
_NEEDED_BELOW = re.compile(
    r"\d+_\w+/[^/]+"  # the modules of Sentence Transformers, such as 1_Pooling/config.json
    r"|additional_chat_templates/[^/]+\.jinja"
)
"""Files in folders below the model's own that serving needs."""
_VARIANT = re.compile(r"model\.[\w-]+\.safetensors")
"""Such as `model.fp16.safetensors`, another precision of `model.safetensors`."""


class Reason(enum.StrEnum):
    """Why a file is skipped."""

    PICKLE = "a pickle, which could run code when it is loaded"
    OTHER_FORMAT = "weights in another format"
    NOT_IN_INDEX = "not named by the index of the weights"
    OTHER_COPY = "another copy of the weights"
    ADAPTER = "an adapter, not a model"
    TRAINING = "left over from training"
    DOCUMENTATION = "documentation"
    HIDDEN = "hidden"
    SUBFOLDER = "in a folder of its own"
    NO_PATTERN = "matches no pattern"


@dataclasses.dataclass(frozen=True)
class FileSelection:
    """Which of a source's files belong to the model."""

    files: tuple[FileEntry, ...]
    skipped: tuple[SkippedFile, ...]


def select(
    files: Iterable[FileEntry],
    patterns: Sequence[str] | None,
    *,
    uri: str,
    index: Mapping[str, str] | None,
    index_file: str = "",
) -> FileSelection:
    """Choose the files to fetch.

    Without patterns: everything in the model's own folder that serving needs. Of the weights, those that the
    index names; without an index all safetensors files that are not another copy of others. With patterns
    (`fnmatch`, on the relative path): the files that match. Pickles are never chosen.

    Args:
        files: everything below the model's folder.
        patterns: of the files wanted.
        uri: of the model, for messages.
        index: from tensor to file, if the model has one.
        index_file: its name, for messages.

    Raises:
        RefusedError: only weights in formats that are not accepted are there, or shards are missing.
        NotFoundError: nothing is there.
    """
    entries = sorted(files, key=lambda entry: entry.path)
    shards = None if index is None else frozenset(index.values())
    copies = {} if patterns is not None else _copies([entry.path for entry in entries], index)
    chosen: list[FileEntry] = []
    skipped: list[SkippedFile] = []
    for entry in entries:
        if patterns is None:
            reason = _reason(entry.path, shards) or copies.get(entry.path)
        else:
            reason = _pickle(entry.path) if _matches(entry.path, patterns) else Reason.NO_PATTERN
        if reason is None:
            check_path(entry.path)
            chosen.append(entry)
        else:
            skipped.append(SkippedFile(entry.path, reason.value))
    _check_complete(chosen, skipped, patterns, index, index_file)
    if not any(entry.is_weights for entry in chosen):
        if patterns is None:
            _point_to_models_below(chosen, skipped, uri)
        _refuse_other_formats(skipped, patterns)
    if not chosen:
        wanted = "any file of a model" if patterns is None else f"any of {', '.join(patterns)}"
        raise NotFoundError(f"{uri}: does not hold {wanted}", uri=uri)
    return FileSelection(tuple(chosen), tuple(skipped))


def _reason(path: str, shards: frozenset[str] | None) -> Reason | None:
    """Why a file is skipped whatever stands beside it; None if it is not."""
    name = path.rpartition("/")[2].lower()
    needed_below = _NEEDED_BELOW.fullmatch(path) is not None
    if shards is not None and path.endswith(".safetensors") and not needed_below:
        return None if path in shards else Reason.NOT_IN_INDEX
    pickle = _pickle(path) is not None
    rules = (
        (any(part.startswith(".") for part in path.split("/")), Reason.HIDDEN),
        (pickle and name.startswith(_TRAINING_STATE), Reason.TRAINING),
        (pickle, Reason.PICKLE),
        (_other_format(path) is not None, Reason.OTHER_FORMAT),
        ("/" in path and not needed_below, Reason.SUBFOLDER),
        (_matches(name, _TRAINING), Reason.TRAINING),
        (_matches(name, _DOCUMENTATION), Reason.DOCUMENTATION),
    )
    return next((reason for applies, reason in rules if applies), None)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _pickle(path: str) -> Reason | None:
    return Reason.PICKLE if path.lower().endswith(PICKLES) else None


def _other_format(path: str) -> str | None:
    return next((name for suffix, name in _OTHER_FORMATS.items() if path.lower().endswith(suffix)), None)


def _copies(paths: Sequence[str], index: Mapping[str, str] | None) -> dict[str, Reason]:
    """Safetensors files that are skipped because others are there, when no index decides."""
    if index is not None:
        return {}
    weights = [path for path in paths if path.endswith(".safetensors") and "/" not in path]
    found: dict[str, Reason] = {}
    for path in weights:
        if path.startswith("adapter_"):
            found[path] = Reason.ADAPTER
        elif path.startswith("consolidated") or (
            "model.safetensors" in weights and _VARIANT.fullmatch(path) is not None
        ):
            found[path] = Reason.OTHER_COPY
    return found if len(found) < len(weights) else {}


def _check_complete(
    chosen: Sequence[FileEntry],
    skipped: Sequence[SkippedFile],
    patterns: Sequence[str] | None,
    index: Mapping[str, str] | None,
    index_file: str,
) -> None:
    there = [entry.path for entry in chosen if entry.is_weights]
    if index is None:
        if patterns is None:
            check_numbers(there)
        return
    there += [
        one.path
        for one in skipped
        if one.path.endswith(".safetensors")
        and (one.path in index.values() or (patterns is None and "/" not in one.path))
    ]
    check_shards(index, there, index_file)


def _point_to_models_below(chosen: Sequence[FileEntry], skipped: Sequence[SkippedFile], uri: str) -> None:
    """Refuse a folder that is no model, but holds models in folders below it, and name them."""
    if any(entry.path in _CONFIGURATIONS for entry in chosen):
        return
    below = sorted(
        {
            one.path.rpartition("/")[0]
            for one in skipped
            if "/" in one.path and one.path.endswith(".safetensors")
        }
    )
    if below:
        folders = "folder" if len(below) == 1 else "folders"
        hold = "holds a model" if len(below) == 1 else "hold models"
        raise NotFoundError(
            f"{uri}: is no model itself; the {folders} {listed(below)} below it {hold}; must name "
            f"{'it' if len(below) == 1 else 'one of them'}, such as {uri}/{below[0]}",
            uri=uri,
        )


def _refuse_other_formats(skipped: Sequence[SkippedFile], patterns: Sequence[str] | None) -> None:
    """Nothing that may be loaded was chosen: say so if that is because of formats."""
    for one in skipped:
        if one.reason == Reason.PICKLE.value:
            raise RefusedError(
                one.path,
                "a pickle runs code when it is loaded, and there are no safetensors weights beside it; "
                "must be safetensors (convert it)",
            )
    for one in skipped:
        if patterns is None and one.reason == Reason.OTHER_FORMAT.value:
            raise RefusedError(
                one.path,
                f"the weights are there only in the format {_other_format(one.path)}; must be safetensors",
            )
