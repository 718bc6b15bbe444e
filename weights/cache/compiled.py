"""What an engine compiled at its last start, kept beside the weights for the next one.

vLLM compiles graphs and kernels into its cache folder (`VLLM_CACHE_ROOT`), minutes of work that a fresh
container throws away. Before a start, `restore` brings the folder back; after it, `save` keeps it, keyed by
everything that it depends on. Artefacts are code: whoever may write the cache folder decides what engines
run, exactly as with the engine's own cache folder.

    compiled/HEX.tar     the folder's files
    compiled/HEX.json    the SHA-256 of the above, and the key in words
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weights.cache.cache import Cache
from weights.manifest import Manifest

_LEFT_OUT = frozenset({"assets"})
"""Folders in vLLM's cache that hold downloads, not artefacts."""


@dataclasses.dataclass(frozen=True)
class CompileKey:
    """Everything that compiled artefacts depend on.

    `model` is the model's content (`model_digest`), `engine` its name and version, `device` the accelerator's
    or processor's name, `arguments` the engine's own options.
    """

    model: str
    engine: str
    device: str
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A name for it: equal keys have equal names."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def model_digest(manifest: Manifest) -> str:
    """What tells a model's content from every other's: its files' checksums, else their versions."""
    lines = [f"{file.path} {file.size} {file.sha256 or file.etag}" for file in manifest.files]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class CompileCache:
    """Compiled artefacts in a weights cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._folder = cache.root / "compiled"

    def restore(self, key: CompileKey, into: Path) -> int | None:
        """Put saved artefacts into the engine's cache folder; what is there already stays.

        Returns:
            Bytes restored, or None if there is nothing right to restore. A damaged archive is removed.
        """
        archive, note = self._paths(key)
        try:
            expected = str(json.loads(note.read_text())["sha256"])
            with archive.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if found != expected:
            for path in (note, archive):
                with contextlib.suppress(OSError):  # read-only, or somebody else was faster
                    path.unlink()
            return None
        into.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".restoring-", dir=into))
        try:
            with tarfile.open(archive) as opened:
                opened.extractall(scratch, filter="data")  # inside the folder, plain files, no devices
            return _merge(scratch, into)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def save(self, key: CompileKey, produced: Path) -> bool:
        """Keep the engine's cache folder, unless exactly this is kept already.

        Returns:
            Whether something was written.

        Raises:
            CacheError: the cache cannot be written.
        """
        files = _files(produced)
        if not files:
            return False
        state = hashlib.sha256(
            "\n".join(f"{name} {path.stat().st_size}" for name, path in files).encode()
        ).hexdigest()
        archive, note = self._paths(key)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(note.read_text())["state"] == state and archive.exists():
                return False
        with self._cache.writing():
            self._folder.mkdir(exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._cache.root / "tmp")
            scratch = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w") as archived:
                    for inside, path in files:
                        archived.add(path, inside, recursive=False)
                with scratch.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                scratch.replace(archive)
            finally:
                scratch.unlink(missing_ok=True)
            # Between the two renames a reader finds a checksum that does not match, and compiles.
            self._cache.write_json(
                note,
                {
                    "sha256": sha256,
                    "state": state,
                    "key": json.loads(json.dumps(dataclasses.asdict(key), default=str)),
                },
            )
        return True

    def _paths(self, key: CompileKey) -> tuple[Path, Path]:
        return self._folder / f"{key.name}.tar", self._folder / f"{key.name}.json"


def _files(folder: Path) -> list[tuple[str, Path]]:
    return sorted(
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.relative_to(folder).parts[0] not in _LEFT_OUT
    )


def _merge(source: Path, target: Path) -> int:
    """Move files that the target lacks. Each comes into being whole, by rename."""
    moved = 0
    for name, path in _files(source):
        place = target / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            moved += path.stat().st_size
            path.replace(place)
    return moved
