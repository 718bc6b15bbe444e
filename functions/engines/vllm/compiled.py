"""What the engine compiled, from one replica's start to the next one's.

torch.compile takes a minute on a CPU and minutes on a GPU, and vLLM keeps what it made in its cache folder,
which is gone with the container. Each engine gets such a folder of its own, always under the same path,
filled before the first start from what `weights.cache.compiled` keeps beside the weights, and kept there
after it.
Nothing happens where nothing is compiled (`enforce-eager`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weights import CacheError, Manifest
from weights.cache.cache import Cache
from weights.cache.compiled import CompileCache, CompileKey, model_digest

log = logging.getLogger(__name__)

_NOT_COMPILED = frozenset({"load-format", "model-loader-extra-config"})
"""Options that the replica adds by itself and that change nothing of what is compiled."""


class Compiled:
    """The compiled artefacts of one replica's engines.

    Args:
        cache_dir: the weights cache.
        engine_args: the user's options.
        environment: where vLLM's own variable may name another place for its cache folder.
    """

    def __init__(
        self,
        cache_dir: Path,
        engine_args: Mapping[str, Any],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._cache_dir = cache_dir
        self._eager = any(
            key.replace("_", "-") == "enforce-eager" and value for key, value in engine_args.items()
        )
        base = environment.get("VLLM_CACHE_ROOT")
        home = environment.get("XDG_CACHE_HOME") or "~/.cache"
        self._base = (Path(base) if base else Path(home, "vllm")).expanduser() / "pilotlight"
        self._key: CompileKey | None = None
        self._saving: asyncio.Task[None] | None = None

    @property
    def folder(self) -> Path | None:
        """What an engine gets as its cache folder; None for its usual one."""
        return None if self._key is None else self._base / self._key.name[:16]

    async def restore(
        self, manifest: Manifest, engine: str, device: str, arguments: Mapping[str, Any]
    ) -> None:
        """Bring back what an equal engine has compiled.

        Args:
            manifest: the model's.
            engine: name and version.
            device: the accelerator's or processor's name.
            arguments: all options of the engine.
        """
        if self._eager:
            return
        plain = {key.replace("_", "-"): value for key, value in arguments.items()}
        kept = {key: value for key, value in plain.items() if key not in _NOT_COMPILED}
        self._key = CompileKey(model_digest(manifest), engine, device, kept)
        try:
            found = await asyncio.to_thread(self._restore, self._key)
        except (OSError, CacheError) as error:
            # The engine compiles, as without all this.
            log.warning("compiled artefacts cannot be restored", extra={"cause": str(error)})
            self._key = None
        else:
            log.info("compiled artefacts", extra={"restored_bytes": found or 0})

    def save(self) -> None:
        """Keep what the engine that has just started compiled; in the background."""
        if self._key is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save(self._key))

    async def close(self) -> None:
        """Wait until what is being kept is kept."""
        if self._saving is not None:
            await asyncio.wait({self._saving})

    def _restore(self, key: CompileKey) -> int | None:
        folder = self._base / key.name[:16]
        folder.mkdir(parents=True, exist_ok=True)
        cache = Cache(self._cache_dir, allow_read_only=True)
        try:
            return CompileCache(cache).restore(key, folder)
        finally:
            cache.close()

    async def _save(self, key: CompileKey) -> None:
        def save() -> bool:
            cache = Cache(self._cache_dir)
            try:
                return CompileCache(cache).save(key, self._base / key.name[:16])
            finally:
                cache.close()

        try:
            if await asyncio.to_thread(save):
                log.info("compiled artefacts kept", extra={"key": key.name})
        except (OSError, CacheError) as error:
            log.warning("compiled artefacts cannot be kept", extra={"cause": str(error)})
