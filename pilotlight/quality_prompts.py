"""`promptsFile` of an agent file's quality check: the prompts of another file, which go into the WarmPool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FIELD = "promptsFile"
_LONGEST = 1024 * 1024


def read_prompt_files(document: dict[str, Any], folder: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Put the prompts of the files that stages name in their place, in `document` itself.

    Args:
        document: an agent file's content, not checked yet.
        folder: what relative paths are relative to.

    Yields:
        Where a file is named that cannot be used, and why.
    """
    spec = document.get("spec")
    stages = spec.get("stages") if isinstance(spec, dict) else None
    for index, stage in enumerate(stages if isinstance(stages, list) else ()):
        rollout = stage.get("rollout") if isinstance(stage, dict) else None
        quality = rollout.get("quality") if isinstance(rollout, dict) else None
        if not isinstance(quality, dict) or FIELD not in quality:
            continue
        named = quality.pop(FIELD)
        where = ("spec", "stages", index, "rollout", "quality")
        if "prompts" in quality:
            yield where, f"has {FIELD} and prompts: one of them"
            continue
        try:
            quality["prompts"] = _read(folder / str(named))
        except (OSError, ValueError, yaml.YAMLError) as problem:
            text = problem.strerror if isinstance(problem, OSError) else str(problem)
            yield where, f"{FIELD} = {named!r}: {text}"
            quality["prompts"] = [{"prompt": "?"}]  # checked no further: the file is the problem


def _read(file: Path) -> list[Any]:
    with file.open(encoding="utf-8") as opened:
        text = opened.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ValueError(f"has more than {_LONGEST} characters")
    found = yaml.safe_load(text)
    if not isinstance(found, list) or not found:
        raise ValueError("must be a list of prompts: [{prompt: TEXT, contains: [TEXT, ...]}, ...]")
    return [{"prompt": entry} if isinstance(entry, str) else entry for entry in found]
