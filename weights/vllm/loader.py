"""vLLM's model loader for `--load-format pilotlight`.

`--model` takes a folder: one with weights, or one from `weights.pull(..., with_weights=False)`
(`pilotlight weights pull --no-weights`), which knows where the weights are and at which version; vLLM itself
keeps `--model s3://...` to the loaders that it ships. Options, as
`--model-loader-extra-config '{"cache_dir": "/var/cache/pilotlight"}'`:

    uri           where the weights are, for a folder that `weights.pull` did not make
    cache_dir     where to keep what is fetched; default the cache that the folder lies in, if `weights.pull`
                  made it, else $PILOTLIGHT_CACHE_DIR, else the user's cache folder
    cache         false keeps nothing
    quota_bytes   of the cache; no limit by default
    limit_bytes   of memory for tensors on their way, default 1 GiB
    concurrency   ranged reads at a time

Tensor-parallel ranks of one host share one download: one of them fetches, the others read what it wrote, and
of a mapped file each touches only the slices that it copies. Pipeline ranks ask for their own layers only.

Written against vLLM 0.32 and 0.33.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from weights.cache.location import default_cache_dir
from weights.loading.model import LIMIT_BYTES, OpenModel, open_model
from weights.loading.tensors import as_torch
from weights.vllm.load_format import LOADED_MESSAGE, LOADER_LOGGER, LOADING_MESSAGE

_OPTIONS: Mapping[str, type] = {
    "uri": str, "cache_dir": str, "cache": bool, "quota_bytes": int, "limit_bytes": int, "concurrency": int,
}  # fmt: skip
_LOWEST_PRIORITY = 19
_log = logging.getLogger(LOADER_LOGGER)


class PilotlightLoader(DefaultModelLoader):  # type: ignore[misc]  # vLLM has no types to check against
    """Streams or maps a model's tensors into vLLM; everything around that is the default loader's."""

    def __init__(self, load_config: LoadConfig) -> None:
        # Not the default loader's own constructor: it refuses options that it does not know.
        BaseModelLoader.__init__(self, load_config)
        self.counter_before_loading_weights = 0.0
        self.local_expert_ids: set[int] | None = None
        self._encoder_only_lm_prefixes = None
        self._encoder_only_weights_mapper = None
        self.enable_weights_track = None
        self._options = _checked(load_config.model_loader_extra_config or {})
        self._skipped: Callable[[str], bool] | None = None

    def download_model(self, model_config: ModelConfig) -> None:
        """Return: loading streams."""

    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        """Load, leaving out what belongs to other pipeline ranks."""
        self._skipped = _of_other_ranks(model)
        super().load_weights(model, model_config)

    def get_all_weights(
        self, model_config: ModelConfig, model: torch.nn.Module
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        """The model's tensors, then those of its secondary sources."""
        where = self._options.get("uri") or model_config.model_weights or model_config.model
        unused = getattr(model, "is_unused_checkpoint_weight", None)
        yield from self._tensors(where, "", unused)
        for source in getattr(model, "secondary_weights", ()):
            yield from self._tensors(source.model_or_path, source.prefix, source.is_unused_weight)

    def _tensors(
        self, where: str, prefix: str, unused: Callable[[str], bool] | None
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        if self.counter_before_loading_weights == 0.0:
            self.counter_before_loading_weights = time.perf_counter()
        wanted = None
        if unused is not None or self._skipped is not None:

            def wanted(name: str) -> bool:
                return not (
                    (unused is not None and unused(name))
                    or (self._skipped is not None and self._skipped(prefix + name))
                )

        options = self._options
        given, kept = options.get("cache_dir"), options.get("cache", True)
        cache_dir = Path(given) if given else default_cache_dir(os.environ)
        _log.info(LOADING_MESSAGE, where)
        opened = open_model(
            where,
            cache_dir=cache_dir if kept else None,
            own_cache=kept and not given,
            wanted=wanted,
            limit_bytes=options.get("limit_bytes", LIMIT_BYTES),
            concurrency=options.get("concurrency"),
            quota_bytes=options.get("quota_bytes"),
        )
        try:
            for entry, data in opened:
                yield prefix + entry.name, as_torch(entry, data)
        except BaseException:
            opened.close()
            raise
        # The engine goes on to warm up; the cache is completed for the next start in the background.
        threading.Thread(target=_finish, args=(opened, where), name="weights-finish", daemon=True).start()


def _finish(opened: OpenModel, where: str) -> None:
    with contextlib.suppress(OSError):  # a system without priorities for threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    try:
        opened.finish()
        report = opened.report()
        _log.info(LOADED_MESSAGE, where, report.bytes_from_source, report.bytes_from_cache)
    except Exception:  # noqa: BLE001 - see below
        # The model is loaded and serves; a cache that could not be completed costs only the next start.
        _log.exception("%s: could not be completed in the cache", where)
    finally:
        opened.close()


def _of_other_ranks(model: torch.nn.Module) -> Callable[[str], bool] | None:
    from vllm.distributed import get_pp_group  # noqa: PLC0415 - heavy, and not set up at import
    from vllm.model_executor.models.utils import is_pp_missing_parameter  # noqa: PLC0415 - the same

    if get_pp_group().world_size == 1:
        return None
    return lambda name: bool(is_pp_missing_parameter(name, model))


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    value: Any
    for name, value in options.items():
        kind = _OPTIONS.get(name)
        if kind is None:
            raise ValueError(f"model_loader_extra_config: {name!r}, must be one of {', '.join(_OPTIONS)}")
        if type(value) is not kind or (isinstance(value, int) and kind is int and value < 1):
            positive = " from 1" if kind is int else ""
            raise ValueError(
                f"model_loader_extra_config: {name} = {value!r}, must be {kind.__name__}{positive}"
            )
    return dict(options)
