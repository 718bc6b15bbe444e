"""The model's way to its engine: configuration and tokenizer first, the weights beside everything else.

The replica fetches the small files and begins to fill the cache with the weights while vLLM is imported. An
engine is started with `--load-format pilotlight`: it maps what is in the cache, and from the moment at which
it begins to load it fetches the rest by itself. With a load format of the user's own choice everything is
fetched before the engine starts, as any loader expects it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import weights
from functions.stage import StartError
from knative import env_vars
from weights.vllm.load_format import LOAD_FORMAT

log = logging.getLogger(__name__)

_VERSIONS_TRIED = 3
_LOOK_AGAIN_SECONDS = 1.0
_LOOKS = 600


class ModelFiles:
    """The files of one replica's model.

    Args:
        uri: where they are.
        cache_dir: where they are kept.
        engine_args: the user's options.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        uri: str,
        cache_dir: Path,
        engine_args: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = uri
        self._cache_dir = cache_dir
        self._given = {key.replace("_", "-"): value for key, value in engine_args.items()}
        self._clock = clock
        self._pulled: weights.PulledModel | None = None
        self._scratch: Path | None = None
        """Where the small files are while the cache cannot be written."""
        self._enough = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None

    @property
    def streams(self) -> bool:
        """Whether the engine reads the weights by our loader."""
        return self._given.get("load-format") in {None, LOAD_FORMAT}

    @property
    def manifest(self) -> weights.Manifest | None:
        """What the model consists of; None before it was brought, and where nothing can be kept of it."""
        return None if self._pulled is None or self._scratch is not None else self._pulled.manifest

    @property
    def failure(self) -> str | None:
        """Why the weights cannot be had, if that is so; None as far as is known."""
        done = self._filling is not None and self._filling.done() and not self._filling.cancelled()
        error = self._filling.exception() if self._filling is not None and done else None
        return None if error is None else str(error)

    async def bring(self) -> Path:
        """Fetch what an engine needs before it can start.

        Returns:
            The folder to start it with.

        Raises:
            StartError: with the cause.
        """
        try:
            try:
                pulled = await weights.pull(
                    self._uri, cache_dir=self._cache_dir, with_weights=not self.streams
                )
            except weights.CacheError as error:
                if not self.streams:
                    raise
                log.warning("starting past the weights cache", extra={"cause": str(error)})
                self._scratch = Path(tempfile.mkdtemp(prefix="pilotlight-model-"))
                pulled = await weights.pull(self._uri, cache_dir=self._scratch, with_weights=False)
        except weights.WeightsError as error:
            raise StartError(self._said(error)) from None
        before, self._pulled = self._pulled, pulled
        if before is not None:
            await asyncio.to_thread(before.release)
        return pulled.path

    def options(self) -> dict[str, Any]:
        """Options that make the engine use our loader; none where it would find nothing to load."""
        pulled = self._pulled
        if not self.streams or pulled is None or not any(file.is_weights for file in pulled.manifest.files):
            return {}
        options: dict[str, Any] = {"load-format": LOAD_FORMAT}
        if self._scratch is not None:
            extra = self._given.get("model-loader-extra-config") or {}
            # What it holds already can be read, even if nothing can be written there.
            options["model-loader-extra-config"] = {"cache_dir": str(self._cache_dir), **extra}
        return options

    def fill(
        self, moved: Callable[[float], None], replaced: Callable[[Path], None]
    ) -> asyncio.Task[None] | None:
        """Begin to bring the weights into the cache, if they are to be brought.

        Args:
            moved: called once with the seconds for which they were on their way here alone.
            replaced: called with the folder to use from now on, each time another version of the model took
                its place at the source; that version is then brought from its beginning.

        Returns:
            Done when they are here, or on their way to the engine; ends with a StartError if they cannot be
            had.
        """
        if self._pulled is None or not self.streams or self._scratch is not None:
            return None
        self._filling = asyncio.create_task(self._fill(moved, replaced))
        return self._filling

    def hand_over(self) -> None:
        """An engine begins to load: it fetches by itself what is still missing."""
        self._enough.set()

    def hold(self) -> None:
        """Keep the weights that an engine has brought into the cache there, for the next engine."""
        if self._pulled is not None and self._scratch is None and self.streams and self._holding is None:
            self._holding = asyncio.create_task(self._hold(self._pulled))

    async def close(self) -> None:
        """Give up what is under way, and let go of the files."""
        tasks = [task for task in (self._filling, self._holding) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._pulled is not None:
            await asyncio.to_thread(self._pulled.release)
            self._pulled = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    async def _fill(self, moved: Callable[[float], None], replaced: Callable[[Path], None]) -> None:
        began = self._clock()
        taken_over = asyncio.create_task(self._enough.wait())
        work = asyncio.create_task(self._prefetch(replaced))
        try:
            await asyncio.wait({work, taken_over}, return_when=asyncio.FIRST_COMPLETED)
            moved(self._clock() - began)
            done = await work
            log.info(
                "weights fetched",
                extra={
                    "bytes": done.bytes_read,
                    "complete": done.complete,
                    "seconds": round(done.seconds, 4),
                },
            )
        except weights.CacheError as error:
            log.warning("the engine streams past the weights cache", extra={"cause": str(error)})
        except weights.WeightsError as error:
            raise StartError(self._said(error)) from None
        finally:
            for task in (work, taken_over):
                task.cancel()
            await asyncio.wait({work, taken_over})

    async def _prefetch(self, replaced: Callable[[Path], None]) -> weights.Prefetched:
        for attempt in range(1, _VERSIONS_TRIED + 1):
            assert self._pulled is not None
            try:
                return await weights.prefetch(self._pulled, until=self._enough)
            except weights.ObjectChangedError as error:
                # An engine that reads already must not get the rest from another version.
                if self._enough.is_set() or attempt == _VERSIONS_TRIED:
                    raise
                log.warning("the model was replaced; fetching its new version", extra={"cause": str(error)})
            replaced(await self.bring())
        raise AssertionError("unreachable")

    async def _hold(self, pulled: weights.PulledModel) -> None:
        with contextlib.suppress(weights.CacheError):  # read-only by now: then nobody evicts here
            for _ in range(_LOOKS):
                if await asyncio.to_thread(pulled.pin_weights):
                    return
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _said(self, error: weights.WeightsError) -> str:
        return f"{env_vars.MODEL_URI} = {self._uri}: {error}"
