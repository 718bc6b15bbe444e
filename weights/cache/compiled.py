"""What an engine compiled at its last start, kept beside the weights for the next one.

vLLM compiles graphs and kernels into its cache folder (`VLLM_CACHE_ROOT`), minutes of work that a fresh
container throws away. Before a start, `restore` brings the folder back; after it, `save` keeps it, keyed by
everything that it depends on. Artefacts are code: `weights.cache.artefact_trust` decides which are restored.

    compiled/HEX.tar     the folder's files
    compiled/HEX.json    the SHA-256 of the archive, its signature, and the key in words
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
from typing import Any, BinaryIO

from weights.cache.artefact_trust import ArtefactTrust, UntrustedArtefactsError
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
    """Compiled artefacts in a weights cache.

    Args:
        cache: the weights cache.
        trust: signs what is saved, and decides what is restored; by default this user's own files are.
    """

    def __init__(self, cache: Cache, trust: ArtefactTrust | None = None) -> None:
        self._cache = cache
        self._trust = trust or ArtefactTrust()
        self._folder = cache.root / "compiled"

    def restore(self, key: CompileKey, into: Path) -> int | None:
        """Put saved artefacts into the engine's cache folder; what is there already stays.

        Returns:
            Bytes restored, or None if there is nothing right to restore. A damaged archive is removed.

        Raises:
            UntrustedArtefactsError: what is there may not be restored.
        """
        with contextlib.ExitStack() as stack:
            try:
                archive, note = self._open(key, stack)
                expected = note["sha256"]
            except (OSError, ValueError, KeyError, TypeError):
                return None
            into.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".restoring-", dir=into))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            # A copy that no other user can change between the check of its digest and the unpacking.
            with (scratch / "archive.tar").open("w+b") as copy:
                shutil.copyfileobj(archive, copy)
                copy.seek(0)
                if hashlib.file_digest(copy, "sha256").hexdigest() != expected:
                    for path in self._paths(key):
                        with contextlib.suppress(OSError):  # read-only, or removed by another process
                            path.unlink()
                    return None
                copy.seek(0)
                with tarfile.open(fileobj=copy) as opened:
                    opened.extractall(scratch / "files", filter="data")  # inside it, plain files, no devices
            return _merge(scratch / "files", into)

    def save(self, key: CompileKey, produced: Path) -> bool:
        """Keep the engine's cache folder, unless exactly this is kept already.

        Returns:
            Whether something was written.

        Raises:
            CacheError: the cache cannot be written, or what is written would not be restored.
        """
        files = _files(produced)
        if not files:
            return False
        state = hashlib.sha256(
            "\n".join(f"{name} {path.stat().st_size}" for name, path in files).encode()
        ).hexdigest()
        archive, note = self._paths(key)
        if self._is_kept(key, state):
            return False
        with self._cache.writing():
            self._trust.prepare(self._folder)
            descriptor, name = tempfile.mkstemp(dir=self._cache.root / "tmp")
            scratch = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w") as archived:
                    for inside, path in files:
                        archived.add(path, inside, recursive=False)
                with scratch.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                scratch.chmod(self._trust.file_mode)
                scratch.replace(archive)
            finally:
                scratch.unlink(missing_ok=True)
            # Between the two renames a reader finds a checksum that does not match, and compiles.
            self._cache.write_json(
                note,
                {
                    "sha256": sha256,
                    **self._trust.sign(key.name, sha256),
                    "state": state,
                    "key": json.loads(json.dumps(dataclasses.asdict(key), default=str)),
                },
            )
        return True

    def _open(self, key: CompileKey, stack: contextlib.ExitStack) -> tuple[BinaryIO, dict[str, Any]]:
        """The archive, open, and its note, once both may be trusted.

        Checked are the open files, so that nothing can take their place afterwards.

        Raises:
            UntrustedArtefactsError: they may not.
            OSError, ValueError, KeyError, TypeError: there are none, or the note is damaged.
        """
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stack.callback(os.close, folder)

        def opened(path: Path) -> BinaryIO:
            descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            return stack.enter_context(os.fdopen(descriptor, "rb"))

        archive, note = map(opened, self._paths(key))
        content = json.loads(note.read())
        statuses = {
            "compiled/": os.fstat(folder),
            f"compiled/{key.name}.tar": os.fstat(archive.fileno()),
            f"compiled/{key.name}.json": os.fstat(note.fileno()),
        }
        self._trust.check(key.name, content, statuses)
        return archive, content

    def _is_kept(self, key: CompileKey, state: str) -> bool:
        """Whether artefacts of this state are kept, and can be restored."""
        with (
            contextlib.ExitStack() as stack,
            contextlib.suppress(OSError, ValueError, KeyError, TypeError, UntrustedArtefactsError),
        ):
            return bool(self._open(key, stack)[1]["state"] == state)
        return False

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
