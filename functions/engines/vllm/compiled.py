"""Compiled artefacts of an engine, kept from one replica's start to the next one's.

torch.compile takes a minute on a CPU and minutes on a GPU. vLLM keeps its output in a cache folder, which is
lost with the container. So an engine gets a cache folder of its own, always under the same path: it is filled
before the first start from what `weights.cache.compiled` keeps beside the weights, and saved there
afterwards. With `enforce-eager` nothing is compiled and nothing is kept. Artefacts are code: without a
signing key only what this user wrote is restored, with one only what bears its signature.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functions.settings import process_environment
from weights import CacheError, Manifest
from weights.cache.artefact_trust import ArtefactTrust, UntrustedArtefactsError
from weights.cache.cache import Cache
from weights.cache.compiled import CompileCache, CompileKey, model_digest

log = logging.getLogger(__name__)

_NOT_COMPILED = frozenset({"load-format", "model-loader-extra-config"})
"""Options that the replica adds and that do not change what is compiled."""


class CompiledArtefacts:
    """The compiled artefacts of one replica's engines.

    Args:
        cache_dir: the node's weights cache.
        engine_args: the user's options.
        signing_key: of the deployment; None to trust this user's own artefacts.
        environment: may name another place for vLLM's cache folders (`VLLM_CACHE_ROOT`); this process's own
            without it.
    """

    def __init__(
        self,
        cache_dir: Path,
        engine_args: Mapping[str, Any],
        signing_key: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._cache_dir = cache_dir
        self._trust = ArtefactTrust(None if signing_key is None else signing_key.encode())
        self._eager = any(
            key.replace("_", "-") == "enforce-eager" and value for key, value in engine_args.items()
        )
        environment = process_environment() if environment is None else environment
        base = environment.get("VLLM_CACHE_ROOT")
        home = environment.get("XDG_CACHE_HOME") or "~/.cache"
        self._base = (Path(base) if base else Path(home, "vllm")).expanduser() / "pilotlight"
        self._key: CompileKey | None = None
        self._saving: asyncio.Task[None] | None = None

    @property
    def folder(self) -> Path | None:
        """The engine's cache folder; None for vLLM's default."""
        return None if self._key is None else self._base / self._key.name[:16]

    async def restore(
        self, manifest: Manifest, engine: str, device: str, arguments: Mapping[str, Any]
    ) -> None:
        """Restore what an equal engine has compiled.

        Args:
            manifest: the model's files.
            engine: name and version of vLLM.
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
        except UntrustedArtefactsError as error:
            # The engine compiles again, and what it makes takes the place of these.
            log.warning("compiled artefacts are not restored", extra={"cause": str(error)})
        except (OSError, CacheError) as error:
            # The engine compiles again.
            log.warning("compiled artefacts cannot be restored", extra={"cause": str(error)})
            self._key = None
        else:
            log.info("compiled artefacts", extra={"restored_bytes": found or 0})

    def save(self) -> None:
        """Keep what the started engine compiled; in the background."""
        if self._key is not None and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save(self._key))

    async def close(self) -> None:
        """Wait for the end of a save under way."""
        if self._saving is not None:
            await asyncio.wait({self._saving})

    def _restore(self, key: CompileKey) -> int | None:
        folder = self._base / key.name[:16]
        self._base.mkdir(parents=True, exist_ok=True)
        try:
            # The engine runs what it finds in it, so no other user may write to it.
            ArtefactTrust().prepare(folder)
        except UntrustedArtefactsError as error:
            raise CacheError(str(error)) from None
        cache = Cache(self._cache_dir, allow_read_only=True)
        try:
            return CompileCache(cache, self._trust).restore(key, folder)
        finally:
            cache.close()

    async def _save(self, key: CompileKey) -> None:
        def save() -> bool:
            cache = Cache(self._cache_dir)
            try:
                return CompileCache(cache, self._trust).save(key, self._base / key.name[:16])
            finally:
                cache.close()

        try:
            if await asyncio.to_thread(save):
                log.info("compiled artefacts kept", extra={"key": key.name})
        except (OSError, CacheError) as error:
            log.warning("compiled artefacts cannot be kept", extra={"cause": str(error)})
