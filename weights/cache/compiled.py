"""What an engine compiled at its last start, kept beside the weights for the next one.

vLLM compiles graphs and kernels into its cache folder (`VLLM_CACHE_ROOT`): minutes of work that are lost with
the container. Before a start, `restore` brings the folder back; after it, `save` keeps it, under a name made
of everything that it depends on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weights.cache.artefact_archives import ArtefactArchives
from weights.cache.artefact_trust import ArtefactTrust
from weights.cache.cache import Cache
from weights.manifest import Manifest

_LEFT_OUT = frozenset({"assets"})
"""Folders in vLLM's cache that hold downloads, not artefacts."""


@dataclasses.dataclass(frozen=True)
class CompileKey:
    """Everything that compiled artefacts depend on."""

    model: str
    """The model's content (`model_digest`)."""
    engine: str
    """The engine's name and version."""
    device: str
    """The accelerator's or processor's name."""
    arguments: Mapping[str, Any]
    """The engine's own options."""

    @property
    def name(self) -> str:
        """A name for the key: equal keys have equal names."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def model_digest(manifest: Manifest) -> str:
    """What tells a model's content from every other's: the SHA-256 of its files, else their versions."""
    lines = [f"{file.path} {file.size} {file.sha256 or file.etag}" for file in manifest.files]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class CompileCache:
    """Compiled artefacts in a weights cache."""

    def __init__(self, cache: Cache, trust: ArtefactTrust | None = None) -> None:
        """Use a cache.

        Args:
            cache: the weights cache.
            trust: signs what is saved, and decides what is restored; by default this user's own files are.
        """
        self._archives = ArtefactArchives(cache, "compiled", trust)

    def restore(self, key: CompileKey, into: Path) -> int | None:
        """Put saved artefacts into the engine's cache folder; files that are there already stay.

        Returns:
            Bytes restored, or None if nothing is saved. A damaged archive is removed.

        Raises:
            UntrustedArtefactsError: what is saved may not be restored.
        """
        return self._archives.restore(key.name, into)

    def save(self, key: CompileKey, produced: Path) -> bool:
        """Keep the engine's cache folder, unless exactly its files are kept already.

        Returns:
            Whether something was written.

        Raises:
            CacheError: the cache cannot be written, or what is written would not be restored.
        """
        return self._archives.save(key.name, produced, made_of=dataclasses.asdict(key), leave_out=_LEFT_OUT)
